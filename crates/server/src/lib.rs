//! What a node, or a simulated world, says of itself over HTTP: `/metrics` for Prometheus, `/healthz` for
//! whoever restarts it.
//!
//! [`Server::bind`] takes an address of this machine's loopback; [`Server::run`] answers until its shutdown
//! resolves. What is shown is a [`Source`]'s: at each request it is asked for a [`Snapshot`], plain values
//! of the moment. Nothing is counted here, so nothing here can differ from what is true, and whoever is
//! measured knows nothing of Prometheus.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | 200 and every metric, in OpenMetrics for those who ask for it (Prometheus does), else in the older text format |
//! | `/healthz` | 200 `ok` while requests are taken, else 503 and why not |
//!
//! Guaranteed: counters only grow while the source's do; a metric's name and labels stay once released. A
//! request never waits for another's.
//!
//! Not guaranteed, and narrow on purpose: there is no encryption and no authentication. So it listens on
//! loopback alone; whoever wants more puts a proxy in front.
//!
//! ```
//! use server::{Health, Server, Snapshot};
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0".parse()?).await?;
//! let address = server.address();
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let source = Arc::new(|| Snapshot { health: Health::Ready, ..Snapshot::default() });
//! let running = tokio::spawn(server.run(source, async { _ = stopped.await }));
//! // Now http://{address}/metrics says `trinity_ready 1`.
//! assert!(address.ip().is_loopback());
//! drop(stop);
//! running.await??;
//! # Ok(()) }
//! ```

pub mod metrics;
mod node;
mod snapshot;

pub use base::Latency;
pub use snapshot::{Health, Kind, Ledger, Log, Network, Operations, Snapshot, Storage};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A snapshot that is on its way.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Snapshot> + Send + 'a>>;

/// Where a snapshot comes from: a function, or a node that runs ([`runtime::Observer`]). It is asked at
/// each request, from any thread; it copies counters, it does not count.
pub trait Source: Send + Sync + 'static {
    /// What is so now.
    fn snapshot(&self) -> Pending<'_>;
}

impl<F: Fn() -> Snapshot + Send + Sync + 'static> Source for F {
    fn snapshot(&self) -> Pending<'_> {
        Box::pin(std::future::ready(self()))
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can be reached from other machines, and nothing here keeps strangers out: take one
    /// of loopback (127.0.0.1, ::1), and put a proxy in front.
    #[error("{address} is not on loopback: take 127.0.0.1 and put a proxy in front")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not give the address, most often because another process has it.
    #[error("cannot listen on {address}: {source}; is it in use? port 0 takes any that is free")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system took the listener away.
    #[error("cannot serve any more: {0}")]
    Broken(#[source] io::Error),
}

/// Listens, and answers once it is run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// The port that Prometheus expects by convention.
    pub const PORT: u16 = 9090;

    /// Listens on an address of loopback; port 0 takes any that is free.
    ///
    /// # Errors
    /// [`ServeError::NotLoopback`], [`ServeError::Listen`]
    pub async fn bind(address: SocketAddr) -> Result<Server, ServeError> {
        if !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback { address });
        }
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves; requests that are under way then are answered first.
    ///
    /// # Errors
    /// [`ServeError::Broken`]
    pub async fn run(
        self,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let routes = Router::new()
            .route("/metrics", get(show))
            .route("/healthz", get(health))
            .with_state(source);
        axum::serve(self.listener, routes)
            .with_graceful_shutdown(shutdown)
            .await
            .map_err(ServeError::Broken)
    }
}

async fn show(State(source): State<Arc<dyn Source>>, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    let snapshot = source.snapshot().await;
    if accepts.is_some_and(|accepts| accepts.contains("application/openmetrics-text")) {
        let head = [(header::CONTENT_TYPE, metrics::OPEN_METRICS)];
        (head, metrics::open_metrics(snapshot)).into_response()
    } else {
        ([(header::CONTENT_TYPE, metrics::TEXT)], metrics::classic(snapshot)).into_response()
    }
}

async fn health(State(source): State<Arc<dyn Source>>) -> Response {
    match source.snapshot().await.health {
        Health::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Health::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
    .into_response()
}
