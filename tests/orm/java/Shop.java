import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;

/**
 * The shop in plain JDBC and in Hibernate.
 *
 * <pre>java Shop ORM DRIVER SCENARIO TWIN</pre>
 *
 * Enters and leaves: what tests/orm/matrix.py says of every shop's program. A thread answers a request.
 */
public final class Shop {
    static final int BOOKS = 20;
    static final int AUTHORS = 10;
    static final int CONNECTIONS = 4;

    private static final ThreadLocal<String> TAGS = new ThreadLocal<>();

    /** What a request shows: rows of texts. */
    interface Page extends Callable<List<List<String>>> {}

    /** A statement with the comment of the request that it belongs to. */
    static String tagged(String sql) {
        String tags = TAGS.get();
        return tags == null ? sql : sql + " /*" + tags + "*/";
    }

    /** The way to the database; behind PgBouncer no statement gets a name. */
    static String url() {
        String threshold = System.getenv("SHOP_POOLED").isEmpty() ? "" : "?prepareThreshold=0";
        return "jdbc:postgresql://%s:%s/%s%s"
            .formatted(System.getenv("PGHOST"), System.getenv("PGPORT"), System.getenv("PGDATABASE"), threshold);
    }

    static String user() {
        return System.getenv("PGUSER");
    }

    private static List<List<String>> answer(Page page, String scenario, int request) throws Exception {
        if (!System.getenv("SHOP_TAGGED").isEmpty()) {
            TAGS.set("request_id='r%d-%d',route='/%s'".formatted(ProcessHandle.current().pid(), request, scenario));
        }
        try {
            return page.call();
        } finally {
            TAGS.remove();
        }
    }

    private static String json(List<List<String>> rows) {
        return rows.stream()
            .map(row -> row.stream().map(text -> '"' + text + '"').collect(Collectors.joining(", ", "[", "]")))
            .collect(Collectors.joining(", ", "[", "]"));
    }

    public static void main(String[] arguments) throws Exception {
        String scenario = arguments[2];
        Page page = arguments[0].equals("jdbc") ? Plain.page(scenario, arguments[3]) : Orm.page(scenario, arguments[3]);
        ExecutorService threads = Executors.newFixedThreadPool(Integer.parseInt(System.getenv("SHOP_AT_ONCE")));
        List<Future<List<List<String>>>> answers = new ArrayList<>();
        for (int number = 0; number < Integer.parseInt(System.getenv("SHOP_REQUESTS")); number++) {
            int request = number;
            answers.add(threads.submit(() -> answer(page, scenario, request)));
        }
        for (Future<List<List<String>>> answer : answers) {
            System.out.println(json(answer.get()));
        }
        System.out.flush();
        System.in.readAllBytes();
        System.exit(0);
    }
}
