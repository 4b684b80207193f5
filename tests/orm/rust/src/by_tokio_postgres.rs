//! tokio-postgres: a connection for each request at a time, in autocommit. It prepares each statement by name, in a
//! round trip of its own.
use crate::plain::{Found, Queries, Value, page};
use crate::{Asked, Numbers, Outcome, print, set, tagged, wait_for_the_end};
use std::rc::Rc;
use tokio::task::LocalSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

struct OfRequest<'one> {
    client: &'one Client,
    tags: String,
}

impl Queries for OfRequest<'_> {
    async fn read(&mut self, sql: &str, value: Value) -> Outcome<Vec<Found>> {
        let value: Box<dyn ToSql + Sync> = match value {
            Value::Limit(limit) => Box::new(limit),
            Value::Id(id) => Box::new(id),
            Value::Ids(ids) => Box::new(ids),
        };
        let rows = self.client.query(&tagged(sql, &self.tags), &[value.as_ref()]).await?;
        Ok(rows.iter().map(|row| Found { id: row.get(0), reference: row.get(1), text: row.get(2) }).collect())
    }
}

async fn work(asked: Asked, numbers: Rc<Numbers>) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(&set("DATABASE_URL"), NoTls).await?;
    tokio::task::spawn_local(connection);
    while let Some(number) = numbers.next(&asked) {
        let mut queries = OfRequest { client: &client, tags: asked.tags(number) };
        print(&page(&asked.page(), &mut queries).await?);
    }
    Ok(client)
}

pub fn run(asked: Asked) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let numbers = Rc::new(Numbers::default());
        let workers: Vec<_> =
            (0..asked.at_once).map(|_| tokio::task::spawn_local(work(asked.clone(), numbers.clone()))).collect();
        let mut clients = vec![];
        for worker in workers {
            clients.push(worker.await??);
        }
        wait_for_the_end();
        Ok(())
    })
}
