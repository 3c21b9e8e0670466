//! The same nodes as tasks of tokio on paused time: a channel per node, a sleeping task per message.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::protocol::{AGAIN_MS, Chance, DOWN_MS, Message, Node, Workload};

struct Net {
    chance: Chance,
    inboxes: Vec<UnboundedSender<Message>>,
    down: Vec<Cell<bool>>,
    sent: Cell<u64>,
    delivered: Cell<u64>,
}

impl Net {
    fn send(self: &Rc<Net>, out: &mut Vec<Message>) {
        for message in out.drain(..) {
            self.sent.set(self.sent.get() + 1);
            let Some(way) = self.chance.way(self.sent.get()) else { continue };
            let net = self.clone();
            spawn_local(async move {
                sleep(Duration::from_nanos(way)).await;
                if !net.down[message.to as usize].get() {
                    net.delivered.set(net.delivered.get() + 1);
                    // Who listens no more has nothing to do any more.
                    let _ = net.inboxes[message.to as usize].send(message);
                }
            });
        }
    }
}

async fn serve(node: Rc<RefCell<Node>>, net: Rc<Net>, mut inbox: UnboundedReceiver<Message>) {
    let mut out = Vec::new();
    while let Some(message) = inbox.recv().await {
        node.borrow_mut().receive(message, &mut out);
        net.send(&mut out);
    }
}

/// Asks from time to time, until all is answered.
async fn ask(number: usize, node: Rc<RefCell<Node>>, net: Rc<Net>) {
    let mut out = Vec::new();
    let mut ticks = interval(Duration::from_millis(AGAIN_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(coordinator) = &node.borrow().coordinator {
            if coordinator.is_done() {
                return;
            }
            if !net.down[number].get() {
                coordinator.ask(&mut out);
            }
        }
        net.send(&mut out);
    }
}

/// Runs a world; returns how many messages arrived.
pub fn run(workload: &Workload, seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing of the machine that could be missing");
    let chance = Chance::new(seed);
    LocalSet::new().block_on(&runtime, async {
        let (inboxes, receivers): (Vec<_>, Vec<_>) =
            (0..workload.nodes).map(|_| unbounded_channel()).unzip();
        let down = (0..workload.nodes).map(|_| Cell::new(false)).collect();
        let (sent, delivered) = (Cell::new(0), Cell::new(0));
        let net = Rc::new(Net { chance, inboxes, down, sent, delivered });
        let mut asking = Vec::new();
        for (number, inbox) in receivers.into_iter().enumerate() {
            let node = Rc::new(RefCell::new(Node::new(number as u32, workload, &chance)));
            if node.borrow().coordinator.is_some() {
                asking.push(spawn_local(ask(number, node.clone(), net.clone())));
            }
            if number < workload.crashes as usize {
                let (net, node, crash) = (net.clone(), node.clone(), number as u64);
                let at = workload.first_crash_ms + workload.every_crash_ms * crash;
                asking.push(spawn_local(async move {
                    sleep(Duration::from_millis(at)).await;
                    net.down[number].set(true);
                    sleep(Duration::from_millis(DOWN_MS)).await;
                    net.down[number].set(false);
                    let mut out = Vec::new();
                    if let Some(coordinator) = &mut node.borrow_mut().coordinator {
                        coordinator.restarted(&mut out);
                    }
                    net.send(&mut out);
                }));
            }
            spawn_local(serve(node, net.clone(), inbox));
        }
        for task in asking {
            task.await.expect("no task of a world panics or is cancelled");
        }
        net.delivered.get()
    })
}
