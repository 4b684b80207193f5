//! The shop in tokio-postgres, SQLx and Diesel.
//!
//! ```text
//! shop ORM DRIVER SCENARIO TWIN
//! ```
//!
//! Enters and leaves: what tests/orm/matrix.py says of every shop's program.
mod by_diesel;
mod by_sqlx;
mod by_tokio_postgres;
mod plain;

use std::cell::Cell;
use std::io::Read;

pub const BOOKS: i64 = 20;
pub const AUTHORS: i64 = 10;
pub const CONNECTIONS: u32 = 4;

pub type Rows = Vec<Vec<String>>;
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a program was asked for.
#[derive(Clone)]
pub struct Asked {
    pub in_transaction: bool,
    pub scenario: String,
    pub twin: String,
    pub requests: usize,
    pub at_once: usize,
}

impl Asked {
    pub fn page(&self) -> String {
        format!("{} {}", self.scenario, self.twin)
    }

    /// The tags of a request, empty where it is not to be tagged.
    pub fn tags(&self, request: usize) -> String {
        if set("SHOP_TAGGED").is_empty() {
            return String::new();
        }
        let process = std::process::id();
        format!("request_id='r{process}-{request}',route='/{}'", self.scenario)
    }
}

/// A statement with the comment of the request that it belongs to.
pub fn tagged(sql: &str, tags: &str) -> String {
    if tags.is_empty() { sql.to_owned() } else { format!("{sql} /*{tags}*/") }
}

pub fn set(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Numbers of requests, for whoever is ready for the next.
#[derive(Default)]
pub struct Numbers(Cell<usize>);

impl Numbers {
    pub fn next(&self, asked: &Asked) -> Option<usize> {
        let number = self.0.get();
        self.0.set(number + 1);
        (number < asked.requests).then_some(number)
    }
}

pub fn print(rows: &Rows) {
    println!("{}", serde_json::json!(rows));
}

/// A server keeps its connections.
pub fn wait_for_the_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn main() -> Outcome<()> {
    let given: Vec<String> = std::env::args().collect();
    let orm = given[1].strip_suffix("-transaction");
    let asked = Asked {
        in_transaction: orm.is_some(),
        scenario: given[3].clone(),
        twin: given[4].clone(),
        requests: set("SHOP_REQUESTS").parse()?,
        at_once: set("SHOP_AT_ONCE").parse()?,
    };
    match orm.unwrap_or(&given[1]) {
        "tokio-postgres" => by_tokio_postgres::run(asked),
        "sqlx" => by_sqlx::run(asked),
        "diesel" => by_diesel::run(asked),
        other => Err(format!("no shop in {other}").into()),
    }
}
