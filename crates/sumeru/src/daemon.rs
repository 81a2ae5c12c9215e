//! The daemon: puts store, data plane, control plane and API together, and takes them apart again
//! in order when it is told to end. Wiring only.

use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sumeru_api::State;
use sumeru_control::config::{self, Entry};
use sumeru_control::dataplane::DataPlane;
use sumeru_control::dry::DryRun;
use sumeru_control::error::Error;
use sumeru_control::local::Local;
use sumeru_control::model::Any;
use sumeru_control::reconcile::{Control, Setup};
use sumeru_control::settings::Settings;
use sumeru_control::store::{Opened, Store};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Where the store is.
pub enum StoreAt {
    /// /var/lib/sumeru/NODE.db.
    Default,
    /// Nowhere: nothing survives a restart.
    Nowhere,
    /// This file.
    Path(PathBuf),
}

/// What the daemon is started with.
pub struct Options {
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Socket to listen on.
    pub socket: PathBuf,
    /// Where objects survive a restart.
    pub store: StoreAt,
    /// Log filter.
    pub log: String,
    /// Whether to run on a data plane that moves nothing.
    pub dry_run: bool,
}

/// How often the control plane looks after its objects.
const TICK: Duration = Duration::from_secs(1);

/// Runs until a signal or `daemon.stop`.
pub fn run(options: Options) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&options.log).map_err(|error| {
        Failure::Usage(format!(
            "--log is {:?}, expected a level such as info: {error}",
            options.log
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let read = options.config.as_deref().map(read).transpose()?;
    let (entries, settings) = read.map_or((None, Settings::default()), |(entries, settings)| {
        (Some(entries), settings)
    });
    start(options, entries, settings).map_err(Failure::Daemon)
}

/// Reads the configuration; every fault of it is told before anything is touched.
fn read(path: &Path) -> Result<(Vec<Entry>, Settings), Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    config::read(&text).map_err(|error| {
        let lines: Vec<String> = match &error {
            Error::Invalid(faults) => faults
                .iter()
                .map(|f| format!("{}: {f}", path.display()))
                .collect(),
            other => vec![format!("{}: {other}", path.display())],
        };
        Failure::Usage(lines.join("\nsumeru: "))
    })
}

fn start(options: Options, entries: Option<Vec<Entry>>, settings: Settings) -> anyhow::Result<()> {
    // Held until the end of the process, whatever way it ends.
    let _lock = lock(&options.socket)?;
    let config = options
        .config
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    let node = entries.iter().flatten().find_map(|e| match &e.object {
        Any::Node(node) => Some(node.spec.name.clone()),
        _ => None,
    });
    let Opened { store, objects, .. } = match &options.store {
        StoreAt::Nowhere => Opened {
            store: Store::none(),
            objects: Vec::new(),
            recovered: None,
        },
        StoreAt::Path(path) => Store::open(path)?,
        StoreAt::Default => {
            let name = node.as_deref().unwrap_or("node");
            Store::open(&Path::new("/var/lib/sumeru").join(format!("{name}.db")))?
        }
    };
    let setup = Setup {
        kept: store.path().map(connections_path),
        settings,
    };
    let metrics = setup.settings.daemon.metrics.clone();
    let plane = data_plane(options.dry_run);
    let control = Control::start_with(plane, store, objects, entries, setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let state = Arc::new(State::new(control, config));
    let served = runtime.block_on(serve(&options.socket, metrics, state.clone()));
    state.control().stop();
    let _ = fs::remove_file(&options.socket);
    tracing::info!("ended");
    served
}

fn data_plane(dry_run: bool) -> Box<dyn DataPlane> {
    if dry_run {
        Box::new(DryRun::default())
    } else {
        Box::new(Local::default())
    }
}

/// Keeps a second daemon off the same socket. The lock is the kernel's, so that a daemon that was
/// killed leaves nothing to clean up.
fn lock(socket: &Path) -> anyhow::Result<File> {
    if let Some(folder) = socket
        .parent()
        .filter(|p| !p.as_os_str().is_empty() && !p.exists())
    {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file =
        File::create(&path).with_context(|| format!("cannot make the lock {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "another daemon runs on {}, expected one daemon per socket (see --rpc)",
            socket.display()
        )),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Where connections are kept over a restart: beside the store.
fn connections_path(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(".connections");
    PathBuf::from(path)
}

async fn serve(socket: &Path, metrics: Option<String>, state: Arc<State>) -> anyhow::Result<()> {
    if let Some(address) = metrics {
        let listener = TcpListener::bind(&address).await;
        let listener = listener.with_context(|| format!("cannot serve metrics on {address}"))?;
        tracing::info!(%address, "metrics are served");
        tokio::spawn(sumeru_api::serve_metrics(listener, state.clone()));
    }
    let listener =
        listen(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut stopping = state.stopping();
    let clients = tokio::spawn(sumeru_api::serve(listener, state.clone()));
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let state = state.clone();
                tokio::task::spawn_blocking(move || state.control().tick()).await?;
            }
            _ = terminate.recv() => { tracing::info!("SIGTERM"); break }
            _ = interrupt.recv() => { tracing::info!("SIGINT"); break }
            _ = stopping.wait_for(|stop| *stop) => { tracing::info!("told to stop"); break }
        }
    }
    state.stop();
    clients.await??;
    Ok(())
}

/// Binds the socket, over one that a killed daemon left: the lock says that nobody listens there.
/// Only the daemon's own user may connect.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
