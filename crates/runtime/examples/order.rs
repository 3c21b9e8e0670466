//! Orders, each a saga: payment, then shipping. Every fifth is out of stock, and its payment is given back.
//!
//! `cargo run -p runtime --example order -- FOLDER [ORDERS]`: kill it at any moment, start it again.

#[path = "support/ledger.rs"]
mod ledger;

use ledger::Ledger;
use runtime::{Coordinator, Definition, Outcome, Refusal, step};
use std::{collections::VecDeque, error::Error, path::Path, time::Duration};

type Failure = Box<dyn Error + Send + Sync>;

/// Places the orders that this folder has not seen yet, and waits for all of them, sixty-four at a time.
pub async fn place(
    folder: &Path,
    orders: u64,
    mut told: impl FnMut(u64, Outcome),
) -> Result<(), Failure> {
    let shop = Coordinator::open(folder.join("log"))
        .action("payment", Ledger::open(&folder.join("payment.db"), false)?)
        .action("shipping", Ledger::open(&folder.join("shipping.db"), true)?)
        .start()
        .await?;
    let ask = |order: u64| {
        let mut saga = Definition::builder();
        let payment = saga.step(step("payment", order.to_le_bytes())?);
        saga.step(step("shipping", order.to_le_bytes())?.after(payment));
        // An order that was placed before, by a process that was killed, is not placed again.
        Ok::<_, Failure>(shop.submit(format!("order {order}"), saga.build()?)?)
    };
    let mut waiting = VecDeque::new();
    let mut fresh = 0..orders;
    loop {
        while waiting.len() < 64
            && let Some(order) = fresh.next()
        {
            waiting.push_back((order, ask(order)?));
        }
        let Some((order, mut placed)) = waiting.pop_front() else { break };
        let mut outcome = placed.outcome().await?;
        while matches!(outcome, Outcome::Refused(Refusal::TooManyActive { .. })) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            outcome = ask(order)?.outcome().await?;
        }
        told(order, outcome);
    }
    shop.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

/// Orders in a folder.
#[tokio::main]
#[allow(dead_code, reason = "the test that kills this has a main function of its own")]
pub async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or(temporary.path().to_owned(), Into::into);
    let orders = arguments.next().map_or(Ok(20), |orders| orders.parse())?;
    std::fs::create_dir_all(&folder)?;
    place(&folder, orders, |order, outcome| println!("order {order}: {outcome:?}")).await
}
