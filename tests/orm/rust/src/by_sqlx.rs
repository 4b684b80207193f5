//! SQLx: any connection of the pool for each query, or one in a transaction. It prepares each statement once a
//! connection, by name.
use crate::plain::{Found, Queries, Value, page};
use crate::{Asked, CONNECTIONS, Numbers, Outcome, print, set, tagged, wait_for_the_end};
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row, Transaction};
use std::rc::Rc;
use tokio::task::LocalSet;

enum Through {
    Pool(PgPool),
    Transaction(Transaction<'static, Postgres>),
}

struct OfRequest {
    through: Through,
    tags: String,
}

impl Queries for OfRequest {
    async fn read(&mut self, sql: &str, value: Value) -> Outcome<Vec<Found>> {
        // Nothing but the tags is not constant.
        let query = sqlx::query(AssertSqlSafe(tagged(sql, &self.tags)));
        let query = match value {
            Value::Limit(limit) => query.bind(limit),
            Value::Id(id) => query.bind(id),
            Value::Ids(ids) => query.bind(ids),
        };
        let rows = match &mut self.through {
            Through::Pool(pool) => query.fetch_all(&*pool).await?,
            Through::Transaction(transaction) => query.fetch_all(&mut **transaction).await?,
        };
        Ok(rows.iter().map(found).collect())
    }
}

fn found(row: &PgRow) -> Found {
    Found { id: row.get(0), reference: row.get(1), text: row.get(2) }
}

async fn work(asked: Asked, numbers: Rc<Numbers>, pool: PgPool) -> Outcome<()> {
    while let Some(number) = numbers.next(&asked) {
        let through =
            if asked.in_transaction { Through::Transaction(pool.begin().await?) } else { Through::Pool(pool.clone()) };
        let mut queries = OfRequest { through, tags: asked.tags(number) };
        let rows = page(&asked.page(), &mut queries).await?;
        if let Through::Transaction(transaction) = queries.through {
            transaction.commit().await?;
        }
        print(&rows);
    }
    Ok(())
}

pub fn run(asked: Asked) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&set("DATABASE_URL")).await?;
        let numbers = Rc::new(Numbers::default());
        let workers: Vec<_> = (0..asked.at_once)
            .map(|_| tokio::task::spawn_local(work(asked.clone(), numbers.clone(), pool.clone())))
            .collect();
        for worker in workers {
            worker.await??;
        }
        wait_for_the_end();
        Ok(())
    })
}
