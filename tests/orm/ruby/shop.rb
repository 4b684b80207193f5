# The shop in Active Record.
#
#     ruby shop.rb ORM DRIVER SCENARIO TWIN
#
# Enters and leaves: what tests/orm/matrix.py says of every shop's program. As under Puma a thread answers a request, with
# a connection of the pool for its time, or in a transaction. Behind PgBouncer `prepared_statements` is off, as the
# guide of Rails says, so that values are written into the text.

require 'active_record'
require 'json'

BOOKS = 20
AUTHORS = 10
CONNECTIONS = 4

# Every statement gets the tags of its request, as the gem marginalia does it for this version.
module Commenting
  def execute(sql, *rest)
    super(tagged(sql), *rest)
  end

  def exec_query(sql, *rest, **more)
    super(tagged(sql), *rest, **more)
  end

  private

  def tagged(sql)
    tags = Thread.current[:tags]
    tags && !sql.include?(tags) ? "#{sql} /*#{tags}*/" : sql
  end
end

class Author < ActiveRecord::Base
  has_many :books
end

class Book < ActiveRecord::Base
  belongs_to :author
  has_many :chapters
  has_many :reviews
end

class Chapter < ActiveRecord::Base
  belongs_to :book
end

class Review < ActiveRecord::Base
  belongs_to :book
end

def books
  Book.order(:id).limit(BOOKS)
end

def authors
  Author.order(:id).limit(AUTHORS)
end

def written(books)
  books.map { |book| [book.title, book.author.name] }
end

def chapters(books)
  books.flat_map { |book| book.chapters.map { |chapter| [book.title, chapter.title] } }
end

def reviews(authors)
  authors.flat_map do |author|
    author.books.flat_map { |book| book.reviews.map { |review| [author.name, book.title, review.body] } }
  end
end

PAGES = {
  %w[many-to-one sick] => -> { written(books) },
  %w[many-to-one cured] => -> { written(books.includes(:author)) },
  %w[one-to-many sick] => -> { chapters(books) },
  %w[one-to-many cured] => -> { chapters(books.includes(:chapters)) },
  %w[nested sick] => -> { reviews(authors) },
  %w[nested cured] => -> { reviews(authors.includes(books: :reviews)) }
}.freeze

orm, _, scenario, twin = ARGV
pooled = !ENV.fetch('SHOP_POOLED').empty?
ActiveRecord::Base.establish_connection(
  adapter: 'postgresql', host: ENV.fetch('PGHOST'), port: ENV.fetch('PGPORT'), username: ENV.fetch('PGUSER'),
  database: ENV.fetch('PGDATABASE'), pool: CONNECTIONS, checkout_timeout: 60,
  prepared_statements: !pooled, advisory_locks: !pooled
)
# What Active Record reads of the catalogue at its start is of no request.
[Author, Book, Chapter, Review].each(&:columns)
ActiveRecord::ConnectionAdapters::PostgreSQLAdapter.prepend(Commenting)

page = PAGES.fetch([scenario, twin])
in_transaction = orm.end_with?('-transaction')
requests = Queue.new
Integer(ENV.fetch('SHOP_REQUESTS')).times { |number| requests << number }
requests.close
answers = Queue.new
threads = Array.new(Integer(ENV.fetch('SHOP_AT_ONCE'))) do
  Thread.new do
    Thread.current.abort_on_exception = true
    while (number = requests.pop)
      tags = "request_id='r#{Process.pid}-#{number}',route='/#{scenario}'"
      Thread.current[:tags] = ENV.fetch('SHOP_TAGGED').empty? ? nil : tags
      ActiveRecord::Base.connection_pool.with_connection do
        answers << (in_transaction ? Author.transaction(&page) : page.call)
      end
      Thread.current[:tags] = nil
    end
  end
end
threads.each(&:join)
puts JSON.generate(answers.pop) until answers.empty?
$stdout.flush
$stdin.read
