//! The pages in SQL, for the drivers that have no models.
use crate::{AUTHORS, BOOKS, Outcome, Rows};
use std::collections::HashMap;

const BOOK_LIST: &str = "SELECT id, author_id, title FROM books ORDER BY id LIMIT $1";
const AUTHOR_LIST: &str = "SELECT id, 0, name FROM authors ORDER BY id LIMIT $1";

/// What all tables here have.
pub struct Found {
    pub id: i32,
    pub reference: i32,
    pub text: String,
}

/// The one value of a statement.
pub enum Value {
    Limit(i64),
    Id(i32),
    Ids(Vec<i32>),
}

/// The queries of one request.
pub trait Queries {
    async fn read(&mut self, sql: &str, value: Value) -> Outcome<Vec<Found>>;
}

pub async fn page(name: &str, queries: &mut impl Queries) -> Outcome<Rows> {
    match name {
        "many-to-one sick" => written_sick(queries).await,
        "many-to-one cured" => written_cured(queries).await,
        "one-to-many sick" => chapters_sick(queries).await,
        "one-to-many cured" => chapters_cured(queries).await,
        "nested sick" => reviews_sick(queries).await,
        "nested cured" => reviews_cured(queries).await,
        other => Err(format!("no page {other}").into()),
    }
}

async fn written_sick(queries: &mut impl Queries) -> Outcome<Rows> {
    let mut rows = vec![];
    for book in queries.read(BOOK_LIST, Value::Limit(BOOKS)).await? {
        let sql = "SELECT id, 0, name FROM authors WHERE id = $1";
        let authors = queries.read(sql, Value::Id(book.reference)).await?;
        rows.push(vec![book.text, authors[0].text.clone()]);
    }
    Ok(rows)
}

async fn written_cured(queries: &mut impl Queries) -> Outcome<Rows> {
    let books = queries.read(BOOK_LIST, Value::Limit(BOOKS)).await?;
    let ids = Value::Ids(books.iter().map(|book| book.reference).collect());
    let authors = by_id(queries.read("SELECT id, 0, name FROM authors WHERE id = ANY($1)", ids).await?);
    Ok(books.into_iter().map(|book| vec![book.text, authors[&book.reference].text.clone()]).collect())
}

async fn chapters_sick(queries: &mut impl Queries) -> Outcome<Rows> {
    let mut rows = vec![];
    for book in queries.read(BOOK_LIST, Value::Limit(BOOKS)).await? {
        let sql = "SELECT id, book_id, title FROM chapters WHERE book_id = $1";
        for chapter in queries.read(sql, Value::Id(book.id)).await? {
            rows.push(vec![book.text.clone(), chapter.text]);
        }
    }
    Ok(rows)
}

async fn chapters_cured(queries: &mut impl Queries) -> Outcome<Rows> {
    let books = by_id(queries.read(BOOK_LIST, Value::Limit(BOOKS)).await?);
    let sql = "SELECT id, book_id, title FROM chapters WHERE book_id = ANY($1)";
    let chapters = queries.read(sql, Value::Ids(books.keys().copied().collect())).await?;
    Ok(chapters.into_iter().map(|chapter| vec![books[&chapter.reference].text.clone(), chapter.text]).collect())
}

async fn reviews_sick(queries: &mut impl Queries) -> Outcome<Rows> {
    let mut rows = vec![];
    for author in queries.read(AUTHOR_LIST, Value::Limit(AUTHORS)).await? {
        let of_author = "SELECT id, author_id, title FROM books WHERE author_id = $1";
        for book in queries.read(of_author, Value::Id(author.id)).await? {
            let of_book = "SELECT id, book_id, body FROM reviews WHERE book_id = $1";
            for review in queries.read(of_book, Value::Id(book.id)).await? {
                rows.push(vec![author.text.clone(), book.text.clone(), review.text]);
            }
        }
    }
    Ok(rows)
}

async fn reviews_cured(queries: &mut impl Queries) -> Outcome<Rows> {
    let authors = by_id(queries.read(AUTHOR_LIST, Value::Limit(AUTHORS)).await?);
    let of_authors = "SELECT id, author_id, title FROM books WHERE author_id = ANY($1)";
    let books = by_id(queries.read(of_authors, Value::Ids(authors.keys().copied().collect())).await?);
    let of_books = "SELECT id, book_id, body FROM reviews WHERE book_id = ANY($1)";
    let reviews = queries.read(of_books, Value::Ids(books.keys().copied().collect())).await?;
    let row = |review: Found| {
        let book = &books[&review.reference];
        vec![authors[&book.reference].text.clone(), book.text.clone(), review.text]
    };
    Ok(reviews.into_iter().map(row).collect())
}

fn by_id(list: Vec<Found>) -> HashMap<i32, Found> {
    list.into_iter().map(|one| (one.id, one)).collect()
}
