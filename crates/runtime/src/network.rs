use crate::process::Arrival;
use base::NodeName;
use node::Message;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc as queue;

/// How nodes reach each other, by name: those of this process directly, others over
/// [`Links`](crate::Links). Messages are handed over in order, and are lost if nobody of that name runs,
/// or can be reached. The protocols need no more: what is lost is sent again.
#[derive(Clone, Debug, Default)]
pub struct Network {
    routes: Arc<Mutex<BTreeMap<NodeName, Route>>>,
}

/// The way to a node.
#[derive(Clone, Debug)]
enum Route {
    /// It runs in this process.
    Here(mpsc::Sender<Arrival>),
    /// It runs in another one, to which this leads.
    There(queue::Sender<Letter>),
}

/// A message that leaves the process.
#[derive(Debug)]
pub(crate) struct Letter {
    pub from: NodeName,
    pub to: NodeName,
    pub message: Message,
}

impl Network {
    pub(crate) fn join(&self, name: NodeName, inbox: mpsc::Sender<Arrival>) {
        self.with(|routes| routes.insert(name, Route::Here(inbox)));
    }

    /// From now on the node is reached there, unless it runs in this process.
    pub(crate) fn lead(&self, name: NodeName, link: queue::Sender<Letter>) {
        self.with(|routes| {
            if !matches!(routes.get(&name), Some(Route::Here(_))) {
                routes.insert(name, Route::There(link));
            }
        });
    }

    pub(crate) fn send(&self, from: NodeName, to: NodeName, message: Message) {
        self.with(|routes| {
            let gone = match routes.get(&to) {
                Some(Route::Here(inbox)) => inbox.send(Arrival::Message { from, message }).is_err(),
                // A link that is full, or waits for its peer, loses what is new; a closed one is gone.
                Some(Route::There(link)) => {
                    let sent = link.try_send(Letter { from, to, message });
                    matches!(sent, Err(queue::error::TrySendError::Closed(_)))
                }
                None => false,
            };
            if gone {
                routes.remove(&to);
            }
        });
    }

    /// Hands over what came from outside: only to nodes of this process.
    ///
    /// Whether one of that name runs here.
    pub(crate) fn deliver(&self, Letter { from, to, message }: Letter) -> bool {
        self.with(|routes| match routes.get(&to) {
            Some(Route::Here(inbox)) => inbox.send(Arrival::Message { from, message }).is_ok(),
            _ => false,
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<NodeName, Route>) -> T) -> T {
        // A map of senders is never half changed, whoever panicked here.
        act(&mut self.routes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
