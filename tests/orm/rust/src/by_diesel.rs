//! Diesel: a connection of the pool for each request, in autocommit or in a transaction. A thread answers a request.
use crate::{AUTHORS, Asked, BOOKS, CONNECTIONS, Outcome, Rows, print, set, wait_for_the_end};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::r2d2::{ConnectionManager, Pool};
use std::sync::atomic::{AtomicUsize, Ordering};

diesel::table! {
    authors { id -> Int4, name -> Text, }
}
diesel::table! {
    books { id -> Int4, title -> Text, author_id -> Int4, }
}
diesel::table! {
    chapters { id -> Int4, title -> Text, book_id -> Int4, }
}
diesel::table! {
    reviews { id -> Int4, body -> Text, book_id -> Int4, }
}
diesel::allow_tables_to_appear_in_same_query!(authors, books, chapters, reviews);
diesel::joinable!(books -> authors (author_id));

#[derive(Queryable, Selectable, Identifiable)]
#[diesel(table_name = authors)]
struct Author {
    id: i32,
    name: String,
}

#[derive(Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = books, belongs_to(Author))]
struct Book {
    id: i32,
    title: String,
    author_id: i32,
}

#[derive(Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = chapters, belongs_to(Book))]
struct Chapter {
    id: i32,
    title: String,
    book_id: i32,
}

#[derive(Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = reviews, belongs_to(Book))]
struct Review {
    id: i32,
    body: String,
    book_id: i32,
}

/// A query with the comment of the request that it belongs to.
struct Tagged<Q> {
    query: Q,
    tags: String,
}

impl<Q: Query> Query for Tagged<Q> {
    type SqlType = Q::SqlType;
}

impl<Q> QueryId for Tagged<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Tagged<Q> {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.query.walk_ast(pass.reborrow())?;
        if !self.tags.is_empty() {
            pass.push_sql(" /*");
            pass.push_sql(&self.tags);
            pass.push_sql("*/");
        }
        Ok(())
    }
}

impl<Q> RunQueryDsl<PgConnection> for Tagged<Q> {}

fn page(asked: &Asked, connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let sick = asked.twin == "sick";
    match (asked.scenario.as_str(), sick) {
        ("many-to-one", true) => written_sick(connection, tags),
        ("many-to-one", false) => written_cured(connection, tags),
        ("one-to-many", true) => chapters_sick(connection, tags),
        ("one-to-many", false) => chapters_cured(connection, tags),
        ("nested", true) => reviews_sick(connection, tags),
        _ => reviews_cured(connection, tags),
    }
}

/// A query with its tags.
fn with<Q>(query: Q, tags: &str) -> Tagged<Q> {
    Tagged { query, tags: tags.to_owned() }
}

fn book_list(connection: &mut PgConnection, tags: &str) -> QueryResult<Vec<Book>> {
    with(books::table.select(Book::as_select()).order(books::id).limit(BOOKS), tags).load(connection)
}

fn author_list(connection: &mut PgConnection, tags: &str) -> QueryResult<Vec<Author>> {
    with(authors::table.select(Author::as_select()).order(authors::id).limit(AUTHORS), tags).load(connection)
}

fn written_sick(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let mut rows = vec![];
    for book in book_list(connection, tags)? {
        let query = authors::table.filter(authors::id.eq(book.author_id)).select(Author::as_select());
        let found: Vec<Author> = with(query, tags).load(connection)?;
        rows.push(vec![book.title, found[0].name.clone()]);
    }
    Ok(rows)
}

fn written_cured(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let query = books::table
        .inner_join(authors::table)
        .select((Book::as_select(), Author::as_select()))
        .order(books::id)
        .limit(BOOKS);
    let found: Vec<(Book, Author)> = with(query, tags).load(connection)?;
    Ok(found.into_iter().map(|(book, author)| vec![book.title, author.name]).collect())
}

fn chapters_sick(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let mut rows = vec![];
    for book in book_list(connection, tags)? {
        let found: Vec<Chapter> =
            with(Chapter::belonging_to(&book).select(Chapter::as_select()), tags).load(connection)?;
        rows.extend(found.into_iter().map(|chapter| vec![book.title.clone(), chapter.title]));
    }
    Ok(rows)
}

fn chapters_cured(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let list = book_list(connection, tags)?;
    let found: Vec<Chapter> = with(Chapter::belonging_to(&list).select(Chapter::as_select()), tags).load(connection)?;
    let mut rows = vec![];
    for (book, of_book) in list.iter().zip(found.grouped_by(&list)) {
        rows.extend(of_book.into_iter().map(|chapter| vec![book.title.clone(), chapter.title]));
    }
    Ok(rows)
}

fn reviews_sick(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let mut rows = vec![];
    for author in author_list(connection, tags)? {
        let list: Vec<Book> = with(Book::belonging_to(&author).select(Book::as_select()), tags).load(connection)?;
        for book in list {
            let found: Vec<Review> =
                with(Review::belonging_to(&book).select(Review::as_select()), tags).load(connection)?;
            rows.extend(found.into_iter().map(|one| vec![author.name.clone(), book.title.clone(), one.body]));
        }
    }
    Ok(rows)
}

fn reviews_cured(connection: &mut PgConnection, tags: &str) -> QueryResult<Rows> {
    let list = author_list(connection, tags)?;
    let found: Vec<Book> = with(Book::belonging_to(&list).select(Book::as_select()), tags).load(connection)?;
    let reviews: Vec<Review> = with(Review::belonging_to(&found).select(Review::as_select()), tags).load(connection)?;
    let of_books = reviews.grouped_by(&found);
    let mut rows = vec![];
    for (book, of_book) in found.iter().zip(of_books) {
        let author = list.iter().find(|author| author.id == book.author_id).expect("the author of a book");
        rows.extend(of_book.into_iter().map(|one| vec![author.name.clone(), book.title.clone(), one.body]));
    }
    Ok(rows)
}

pub fn run(asked: Asked) -> Outcome<()> {
    let manager = ConnectionManager::<PgConnection>::new(set("DATABASE_URL"));
    let pool = Pool::builder().max_size(CONNECTIONS).test_on_check_out(false).build(manager)?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Outcome<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= asked.requests {
                    return Ok(());
                }
                let tags = asked.tags(number);
                let mut connection = pool.get()?;
                let rows = if asked.in_transaction {
                    connection.transaction(|through| page(&asked, through, &tags))?
                } else {
                    page(&asked, &mut connection, &tags)?
                };
                drop(connection);
                print(&rows);
            }
        };
        let workers: Vec<_> = (0..asked.at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a thread of the shop"))
    })?;
    wait_for_the_end();
    Ok(())
}
