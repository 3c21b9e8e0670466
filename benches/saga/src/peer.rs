//! steno 0.5, with two stores: one that syncs its file at every event, and one in which events that come
//! meanwhile share the next sync. steno itself comes with a store in memory only. Its actions return at
//! once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use steno::{
    Action, ActionContext, ActionError, ActionFunc, ActionRegistry, DagBuilder, Node,
    SagaCachedState, SagaCreateParams, SagaDag, SagaId, SagaName, SagaNodeEvent, SagaType,
    SecStore,
};
use tokio::sync::oneshot;

use crate::Trouble;
use crate::shape::{Load, Meter, Sample, Shape};

/// How a store syncs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    EachEvent,
    Groups,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

/// A line per event in one file.
#[derive(Debug)]
struct EachEvent {
    file: Mutex<File>,
    counts: Arc<Counts>,
}

/// The same, written by a thread of its own.
#[derive(Debug)]
struct Groups {
    lines: Mutex<mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>>,
}

fn append(file: &mut File, lines: &[u8], counts: &Counts) -> std::io::Result<()> {
    file.write_all(lines)?;
    file.sync_data()?;
    counts.syncs.fetch_add(1, Ordering::Relaxed);
    counts.bytes.fetch_add(lines.len() as u64, Ordering::Relaxed);
    Ok(())
}

impl EachEvent {
    fn store(&self, line: &[u8]) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::task::block_in_place(|| append(&mut file, line, &self.counts))
            .expect("a benchmark whose disk fails has nothing to measure");
    }
}

impl Groups {
    fn start(mut file: File, counts: Arc<Counts>) -> Groups {
        let (lines, arrivals) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            let (mut group, mut waiting) = (Vec::new(), Vec::new());
            while let Ok(first) = arrivals.recv() {
                for (line, stored) in std::iter::once(first).chain(arrivals.try_iter()) {
                    group.extend_from_slice(&line);
                    waiting.push(stored);
                }
                append(&mut file, &group, &counts)
                    .expect("a benchmark whose disk fails has nothing to measure");
                group.clear();
                for stored in waiting.drain(..) {
                    // Whoever waits no more does not mind.
                    let _ = stored.send(());
                }
            }
        });
        Groups { lines: Mutex::new(lines) }
    }

    async fn store(&self, line: Vec<u8>) {
        let (stored, waits) = oneshot::channel();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lines.send((line, stored)).expect("the thread lives as long as this sender");
        waits.await.expect("the thread answers whatever it takes");
    }
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("steno's events are JSON");
    line.push(b'\n');
    line
}

#[async_trait::async_trait]
impl SecStore for EachEvent {
    async fn saga_create(&self, create: SagaCreateParams) -> Result<(), anyhow::Error> {
        self.store(&line(&create));
        Ok(())
    }

    async fn record_event(&self, event: SagaNodeEvent) {
        self.store(&line(&event));
    }

    // The log tells all of it.
    async fn saga_update(&self, _: SagaId, _: SagaCachedState) {}
}

#[async_trait::async_trait]
impl SecStore for Groups {
    async fn saga_create(&self, create: SagaCreateParams) -> Result<(), anyhow::Error> {
        self.store(line(&create)).await;
        Ok(())
    }

    async fn record_event(&self, event: SagaNodeEvent) {
        self.store(line(&event)).await;
    }

    async fn saga_update(&self, _: SagaId, _: SagaCachedState) {}
}

#[derive(Debug)]
struct Bench;

impl SagaType for Bench {
    type ExecContextType = ();
}

async fn act(_: ActionContext<Bench>) -> Result<u64, ActionError> {
    Ok(7)
}

async fn undo(_: ActionContext<Bench>) -> Result<(), anyhow::Error> {
    Ok(())
}

fn dag(shape: Shape, action: &dyn Action<Bench>) -> Result<Arc<SagaDag>, Trouble> {
    let mut builder = DagBuilder::new(SagaName::new("bench"));
    let node = |name: String| Node::action(name, "step", action);
    match shape {
        Shape::Linear => (0..5).for_each(|step| builder.append(node(format!("s{step}")))),
        Shape::Wide => {
            builder.append_parallel((0..16).map(|step| node(format!("s{step}"))).collect());
            builder.append(node("join".into()));
        }
        Shape::Decision => return Err("steno has no transactions".into()),
    }
    Ok(Arc::new(SagaDag::new(builder.build()?, serde_json::Value::Null)))
}

/// Measures.
pub fn measure(folder: &Path, shape: Shape, load: &Load, syncs: Syncs) -> Result<Sample, Trouble> {
    let file = OpenOptions::new().create(true).append(true).open(folder.join("steno"))?;
    let counts = Arc::new(Counts::default());
    let store: Arc<dyn SecStore> = match syncs {
        Syncs::EachEvent => Arc::new(EachEvent { file: Mutex::new(file), counts: counts.clone() }),
        Syncs::Groups => Arc::new(Groups::start(file, counts.clone())),
    };
    let action = ActionFunc::new_action("act", act, undo);
    let dag = dag(shape, action.as_ref())?;
    let mut registry = ActionRegistry::new();
    registry.register(action);
    let registry = Arc::new(registry);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let meter = Arc::new(Mutex::new(Meter::start(load)));
    let ended = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let sec = Arc::new(steno::sec(log, store));
        let mut lanes = Vec::new();
        for _ in 0..load.in_flight {
            let (sec, dag, registry) = (sec.clone(), dag.clone(), registry.clone());
            let (meter, ended) = (meter.clone(), ended.clone());
            lanes.push(tokio::spawn(async move {
                loop {
                    let id = SagaId::new_v4();
                    let done =
                        sec.saga_create(id, Arc::new(()), dag.clone(), registry.clone()).await?;
                    sec.saga_start(id).await?;
                    if done.await.kind.is_err() {
                        anyhow::bail!("a saga failed");
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                    if !meter.lock().unwrap_or_else(PoisonError::into_inner).ended() {
                        return Ok(());
                    }
                }
            }));
        }
        for lane in lanes {
            lane.await??;
        }
        Ok::<(), Trouble>(())
    })?;
    let ended = ended.load(Ordering::Relaxed) as f64;
    let meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Sample {
        per_second: meter.per_second(load),
        syncs_per_operation: counts.syncs.load(Ordering::Relaxed) as f64 / ended,
        bytes_per_operation: counts.bytes.load(Ordering::Relaxed) as f64 / ended,
    })
}
