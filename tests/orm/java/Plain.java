import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;

/** JDBC alone: a connection of the pool for each request, in autocommit. */
final class Plain {
    private static final String BOOK_LIST = "SELECT id, title, author_id FROM books ORDER BY id LIMIT ?";
    private static final String AUTHOR_LIST = "SELECT id, name, 0 FROM authors ORDER BY id LIMIT ?";

    /** What all tables here have. */
    private record Found(int id, String text, int reference) {}

    /** The pages of one connection. */
    private interface Rows {
        List<List<String>> of(Connection connection) throws SQLException;
    }

    static Shop.Page page(String scenario, String twin) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(Shop.url());
        config.setUsername(Shop.user());
        config.setMaximumPoolSize(Shop.CONNECTIONS);
        HikariDataSource pool = new HikariDataSource(config);
        Rows rows = Map.<String, Rows>of(
            "many-to-one sick", Plain::writtenSick,
            "many-to-one cured", Plain::writtenCured,
            "one-to-many sick", Plain::chaptersSick,
            "one-to-many cured", Plain::chaptersCured,
            "nested sick", Plain::reviewsSick,
            "nested cured", Plain::reviewsCured
        ).get(scenario + " " + twin);
        return () -> {
            try (Connection connection = pool.getConnection()) {
                return rows.of(connection);
            }
        };
    }

    private static List<Found> query(Connection connection, String sql, Object value) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(Shop.tagged(sql))) {
            statement.setObject(1, value instanceof List<?> ids ? connection.createArrayOf("int4", ids.toArray()) : value);
            List<Found> found = new ArrayList<>();
            try (ResultSet result = statement.executeQuery()) {
                while (result.next()) {
                    found.add(new Found(result.getInt(1), result.getString(2), result.getInt(3)));
                }
            }
            return found;
        }
    }

    private static Map<Integer, Found> byId(List<Found> list) {
        return list.stream().collect(Collectors.toMap(Found::id, Function.identity()));
    }

    private static List<List<String>> writtenSick(Connection connection) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        for (Found book : query(connection, BOOK_LIST, Shop.BOOKS)) {
            Found author = query(connection, "SELECT id, name, 0 FROM authors WHERE id = ?", book.reference).get(0);
            rows.add(List.of(book.text, author.text));
        }
        return rows;
    }

    private static List<List<String>> writtenCured(Connection connection) throws SQLException {
        List<Found> books = query(connection, BOOK_LIST, Shop.BOOKS);
        List<Integer> ids = books.stream().map(Found::reference).toList();
        Map<Integer, Found> authors = byId(query(connection, "SELECT id, name, 0 FROM authors WHERE id = ANY(?)", ids));
        return books.stream().map(book -> List.of(book.text, authors.get(book.reference).text)).toList();
    }

    private static List<List<String>> chaptersSick(Connection connection) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        for (Found book : query(connection, BOOK_LIST, Shop.BOOKS)) {
            String sql = "SELECT id, title, book_id FROM chapters WHERE book_id = ?";
            for (Found chapter : query(connection, sql, book.id)) {
                rows.add(List.of(book.text, chapter.text));
            }
        }
        return rows;
    }

    private static List<List<String>> chaptersCured(Connection connection) throws SQLException {
        Map<Integer, Found> books = byId(query(connection, BOOK_LIST, Shop.BOOKS));
        String sql = "SELECT id, title, book_id FROM chapters WHERE book_id = ANY(?)";
        return query(connection, sql, List.copyOf(books.keySet())).stream()
            .map(chapter -> List.of(books.get(chapter.reference).text, chapter.text)).toList();
    }

    private static List<List<String>> reviewsSick(Connection connection) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        for (Found author : query(connection, AUTHOR_LIST, Shop.AUTHORS)) {
            for (Found book : query(connection, "SELECT id, title, author_id FROM books WHERE author_id = ?", author.id)) {
                String sql = "SELECT id, body, book_id FROM reviews WHERE book_id = ?";
                for (Found review : query(connection, sql, book.id)) {
                    rows.add(List.of(author.text, book.text, review.text));
                }
            }
        }
        return rows;
    }

    private static List<List<String>> reviewsCured(Connection connection) throws SQLException {
        Map<Integer, Found> authors = byId(query(connection, AUTHOR_LIST, Shop.AUTHORS));
        String ofAuthors = "SELECT id, title, author_id FROM books WHERE author_id = ANY(?)";
        Map<Integer, Found> books = byId(query(connection, ofAuthors, List.copyOf(authors.keySet())));
        String ofBooks = "SELECT id, body, book_id FROM reviews WHERE book_id = ANY(?)";
        List<List<String>> rows = new ArrayList<>();
        for (Found review : query(connection, ofBooks, List.copyOf(books.keySet()))) {
            Found book = books.get(review.reference);
            rows.add(List.of(authors.get(book.reference).text, book.text, review.text));
        }
        return rows;
    }
}
