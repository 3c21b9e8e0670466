use crate::process::Arrival;
use base::NodeName;
use node::Message;
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// The nodes of one process, by name: messages between them are handed over, in order, and are lost if
/// nobody of that name runs. The protocols need no more: what is lost is sent again.
#[derive(Clone, Debug, Default)]
pub struct Network {
    inboxes: Arc<Mutex<BTreeMap<NodeName, Sender<Arrival>>>>,
}

impl Network {
    pub(crate) fn join(&self, name: NodeName, inbox: Sender<Arrival>) {
        self.with(|inboxes| inboxes.insert(name, inbox));
    }

    pub(crate) fn send(&self, from: NodeName, to: NodeName, message: Message) {
        self.with(|inboxes| {
            let Some(inbox) = inboxes.get(&to) else { return };
            if inbox.send(Arrival::Message { from, message }).is_err() {
                inboxes.remove(&to);
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<NodeName, Sender<Arrival>>) -> T) -> T {
        // A map of senders is never half changed, whoever panicked here.
        act(&mut self.inboxes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
