import jakarta.persistence.Entity;
import jakarta.persistence.FetchType;
import jakarta.persistence.Id;
import jakarta.persistence.JoinColumn;
import jakarta.persistence.ManyToOne;
import jakarta.persistence.OneToMany;
import jakarta.persistence.Table;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.cfg.Configuration;
import org.hibernate.resource.jdbc.spi.StatementInspector;

/** Hibernate: a session for each request, which is a transaction. */
final class Orm {
    @Entity(name = "Author")
    @Table(name = "authors")
    public static class Author {
        @Id int id;
        String name;
        @OneToMany(mappedBy = "author") List<Book> books;
    }

    @Entity(name = "Book")
    @Table(name = "books")
    public static class Book {
        @Id int id;
        String title;
        @ManyToOne(fetch = FetchType.LAZY) @JoinColumn(name = "author_id") Author author;
        @OneToMany(mappedBy = "book") List<Chapter> chapters;
        @OneToMany(mappedBy = "book") List<Review> reviews;

        public Author getAuthor() {
            return author;
        }
    }

    @Entity(name = "Chapter")
    @Table(name = "chapters")
    public static class Chapter {
        @Id int id;
        String title;
        @ManyToOne(fetch = FetchType.LAZY) @JoinColumn(name = "book_id") Book book;
    }

    @Entity(name = "Review")
    @Table(name = "reviews")
    public static class Review {
        @Id int id;
        String body;
        @ManyToOne(fetch = FetchType.LAZY) @JoinColumn(name = "book_id") Book book;
    }

    static Shop.Page page(String scenario, String twin) {
        Configuration configuration = new Configuration()
            .addAnnotatedClass(Author.class)
            .addAnnotatedClass(Book.class)
            .addAnnotatedClass(Chapter.class)
            .addAnnotatedClass(Review.class)
            .setProperty("hibernate.connection.url", Shop.url())
            .setProperty("hibernate.connection.username", Shop.user())
            .setProperty("hibernate.connection.provider_class", "hikari")
            .setProperty("hibernate.hikari.maximumPoolSize", String.valueOf(Shop.CONNECTIONS));
        configuration.setStatementInspector((StatementInspector) Shop::tagged);
        if (twin.equals("cured")) {
            configuration.setProperty("hibernate.default_batch_fetch_size", "50");
        }
        SessionFactory factory = configuration.buildSessionFactory();
        String books = "select b from Book b order by b.id";
        String withAuthor = "select b from Book b join fetch b.author order by b.id";
        Function<Session, List<List<String>>> rows = Map.<String, Function<Session, List<List<String>>>>of(
            "many-to-one sick", session -> written(books(session, books)),
            "many-to-one cured", session -> written(books(session, withAuthor)),
            "one-to-many sick", session -> chapters(books(session, books)),
            "one-to-many cured", session -> chapters(books(session, books)),
            "nested sick", Orm::reviews,
            "nested cured", Orm::reviews
        ).get(scenario + " " + twin);
        return () -> factory.fromTransaction(rows::apply);
    }

    private static List<Book> books(Session session, String query) {
        return session.createQuery(query, Book.class).setMaxResults(Shop.BOOKS).list();
    }

    private static List<List<String>> written(List<Book> books) {
        return books.stream().map(book -> List.of(book.title, Orm.name(book.getAuthor()))).toList();
    }

    /** The name, from a proxy too, whose fields are empty. */
    private static String name(Author author) {
        return ((Author) org.hibernate.Hibernate.unproxy(author)).name;
    }

    private static List<List<String>> chapters(List<Book> books) {
        List<List<String>> rows = new ArrayList<>();
        for (Book book : books) {
            for (Chapter chapter : book.chapters) {
                rows.add(List.of(book.title, chapter.title));
            }
        }
        return rows;
    }

    private static List<List<String>> reviews(Session session) {
        String query = "select a from Author a order by a.id";
        List<List<String>> rows = new ArrayList<>();
        for (Author author : session.createQuery(query, Author.class).setMaxResults(Shop.AUTHORS).list()) {
            for (Book book : author.books) {
                for (Review review : book.reviews) {
                    rows.add(List.of(author.name, book.title, review.body));
                }
            }
        }
        return rows;
    }
}
