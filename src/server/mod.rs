//! The composition root: from a configuration to bound sockets, a resolver behind them, and a run
//! that can be reloaded and stopped.

mod assemble;
mod control;
mod dht_client;
mod forwarding;
mod host_sleep;
mod listen;
mod losses;
mod port_holder;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::control::{ControlListener, serve_control};
use crate::pkarr::Suffixes;
use crate::resolve::Dht;
use crate::serve::systemd::{self, Inherited};
use crate::serve::{CurrentService, Places, UdpThreads, serve_tcp};
use assemble::{
    answers, have_same_answers, keep_alive, local_records, open_store, packets, relays, service,
    start_dht,
};
use control::{CurrentParts, Parts};
use forwarding::{CurrentForward, forwarding};
use host_sleep::HostSleep;
use listen::Listener;

pub use dht_client::{join_dht, open_relays};
pub use listen::ListenError;

/// How long questions in flight may take to finish when the server stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that the start waits for the packet store, which opens in the background after that.
const STORE_PATIENCE: Duration = Duration::from_millis(500);

/// What is not in the configuration file.
#[derive(Default)]
pub struct Options {
    /// Sockets from the service manager; if there are any, `[listen] addresses` is not used.
    pub inherited: Inherited,
    /// Where the system's resolvers are listed, for a configuration without upstreams.
    pub resolv_conf: Option<PathBuf>,
    /// Called with a new configuration once it is in force.
    pub reloaded: Option<Reloaded>,
}

/// See [`Options::reloaded`].
pub type Reloaded = Box<dyn Fn(&Config) + Send>;

/// Why a server does not start, or does not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system does not let an address be served.
    #[error("cannot serve {address} (UDP): {error}")]
    Udp {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the threads that serve UDP: {0}")]
    Threads(std::io::Error),
    /// The access list is unusable.
    #[error("the access list is unusable: {0}")]
    Access(String),
    /// A file that the upstreams need is unusable.
    #[error("[upstream] cannot be used: {0}")]
    Upstream(String),
}

/// A server whose sockets are bound.
pub struct Server {
    config: Config,
    resolv_conf: Option<PathBuf>,
    reloaded: Option<Reloaded>,
    inherited: bool,
    listeners: Vec<Running>,
    service: Arc<CurrentService>,
    forward: Arc<CurrentForward>,
    parts: Arc<CurrentParts>,
    dht_stop: CancellationToken,
    control_stop: CancellationToken,
    places: Arc<Places>,
    tasks: TaskTracker,
    udp_threads: UdpThreads,
    udp_addresses: watch::Sender<Vec<SocketAddr>>,
}

/// A listener whose tasks run.
#[derive(Debug)]
struct Running {
    /// As configured: port 0 stays 0.
    configured: SocketAddr,
    bound: SocketAddr,
    serves_udp: bool,
    stop: CancellationToken,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("inherited", &self.inherited)
            .field("resolv_conf", &self.resolv_conf)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the sockets and starts serving, and starts joining the DHT. Needs no network: what
    /// cannot be reached yet is tried again in the background.
    ///
    /// # Errors
    /// If an address cannot be listened on; nothing is left behind then.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        let inherited = !options.inherited.is_empty();
        let bound = if inherited {
            tracing::info!("sockets are inherited; [listen] addresses is not used");
            listen::adopt(options.inherited)?
        } else {
            listen::bind_all(&config.listen.addresses)?
        };
        // While it opens, the rest is made ready.
        let store = open_store(&config);
        let listening: Vec<SocketAddr> = bound.iter().map(|listener| listener.bound).collect();
        let forwarding = forwarding(&config, options.resolv_conf.as_deref(), &listening)
            .map_err(StartError::Upstream)?;
        let forward = Arc::new(CurrentForward::new(forwarding));
        let relays = relays(&config, &config.relays.urls, &forward)?;
        let dht_stop = CancellationToken::new();
        let dht = start_dht(&config, &forward, dht_stop.clone());
        if let Some(store) = &store {
            store.wait_until_open(STORE_PATIENCE);
        }
        let packets = packets(&config, &dht, &relays, store.as_ref());
        let parts = Parts {
            started: Instant::now(),
            suffixes: Suffixes::new(&config.names.suffixes),
            local: Arc::new(local_records(&config)),
            keep_alive: keep_alive(&config, &packets, &dht, None),
            packets,
            relays,
            answers: answers(&config),
            config: config.clone(),
            listening,
            forward: Arc::clone(&forward),
            dht,
            store,
        };
        let service = service(&config, &parts)?;
        parts.local.watch(parts.answers.clone());
        let service = Arc::new(ArcSwap::from_pointee(service));
        let tasks = TaskTracker::new();
        let udp_threads = UdpThreads::start(listen::udp_threads(), &service, &tasks);
        let mut server = Self {
            resolv_conf: options.resolv_conf,
            reloaded: options.reloaded,
            inherited,
            listeners: Vec::new(),
            service,
            forward,
            parts: Arc::new(CurrentParts(ArcSwap::from_pointee(parts))),
            dht_stop,
            control_stop: CancellationToken::new(),
            places: Places::new(
                config.listen.max_tcp_connections,
                config.listen.max_tcp_connections_per_client,
            ),
            tasks,
            udp_threads: udp_threads.map_err(StartError::Threads)?,
            udp_addresses: watch::Sender::default(),
            config,
        };
        for listener in bound {
            server.listen(listener)?;
        }
        server.tell_udp_addresses();
        server.open_control();
        Ok(server)
    }

    /// The addresses that are served, over UDP, TCP or both.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.listeners.iter().map(|running| running.bound).collect();
        addresses.dedup();
        addresses
    }

    /// The DHT client.
    pub fn dht(&self) -> Arc<Dht> {
        Arc::clone(&self.parts.0.load().dht)
    }

    /// Serves until `stop`, taking each configuration that comes through `reload`, and tells systemd
    /// of every change of state. Then lets questions in flight finish, for [`STOP_TIMEOUT`] at most.
    pub async fn run(mut self, stop: CancellationToken, mut reload: mpsc::Receiver<Config>) {
        let mut in_dht = false;
        let mut host_sleep = HostSleep::from_now_on();
        systemd::notify_ready(&self.status(in_dht));
        let udp_addresses = self.udp_addresses.subscribe();
        let losses = tokio::spawn(losses::tell_log(udp_addresses.clone()));
        let watchdog = tokio::spawn(systemd::watchdog(udp_addresses, stop.clone()));
        loop {
            let dht = self.dht();
            tokio::select! {
                () = stop.cancelled() => break,
                () = dht.becomes(!in_dht) => {
                    in_dht = !in_dht;
                    systemd::notify_status(&self.status(in_dht));
                }
                slept = host_sleep.ended() => self.has_slept(slept).await,
                Some(config) = reload.recv() => {
                    systemd::notify_reloading();
                    match self.reload(config) {
                        Ok(answers) => {
                            if let Some(reloaded) = &self.reloaded {
                                reloaded(&self.config);
                            }
                            tracing::info!("configuration reloaded, answers {answers}");
                        }
                        Err(error) => tracing::error!(%error, "the old configuration stays in force"),
                    }
                    systemd::notify_ready(&self.status(in_dht));
                }
            }
        }
        systemd::notify_stopping();
        watchdog.abort();
        losses.abort();
        for running in &self.listeners {
            running.stop.cancel();
        }
        self.tasks.close();
        if timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "stopped with questions unanswered");
        }
        self.parts.0.load().keep_alive.stop();
        self.dht_stop.cancel();
        self.control_stop.cancel();
        let store = self.parts.0.load().store.clone();
        if let Some(store) = store {
            store.close().await;
        }
    }

    /// Takes a new configuration, and tells what has become of the cached answers. Nothing changes if it
    /// cannot be carried out.
    ///
    /// # Errors
    /// If a new address cannot be listened on.
    fn reload(&mut self, config: Config) -> Result<&'static str, StartError> {
        let wanted = &config.listen.addresses;
        let mut added = Vec::new();
        if !self.inherited {
            let is_new = |address: &SocketAddr| {
                !self
                    .listeners
                    .iter()
                    .any(|running| running.configured == *address)
            };
            let new: Vec<SocketAddr> = wanted.iter().copied().filter(is_new).collect();
            added = listen::bind_all(&new)?;
        }
        let kept = |running: &Running| self.inherited || wanted.contains(&running.configured);
        let listening: Vec<SocketAddr> = self
            .listeners
            .iter()
            .filter(|running| kept(running))
            .map(|running| running.bound)
            .chain(added.iter().map(|listener| listener.bound))
            .collect();
        let forwarding = forwarding(&config, self.resolv_conf.as_deref(), &listening)
            .map_err(StartError::Upstream)?;
        let mut relays = relays(&config, &config.relays.urls, &self.forward)?;

        let dht_changed =
            config.dht != self.config.dht || config.state.directory != self.config.state.directory;
        let before = self.parts.0.load_full();
        let mut dht = Arc::clone(&before.dht);
        let mut dht_stop = self.dht_stop.clone();
        if dht_changed {
            dht_stop = CancellationToken::new();
            dht = start_dht(&config, &self.forward, dht_stop.clone());
        }
        // A new bound alone waits for the next start: two stores cannot have one directory open.
        let store_changed = config.state.directory != self.config.state.directory;
        let store = if store_changed {
            open_store(&config)
        } else {
            before.store.clone()
        };
        let relays_changed = config.relays != self.config.relays
            || config.upstream.ca_file != self.config.upstream.ca_file;
        let changed = dht_changed || store_changed || relays_changed;
        let packets = if changed || config.cache != self.config.cache {
            let packets = packets(&config, &dht, &relays, store.as_ref());
            packets.take_over(&before.packets);
            packets
        } else {
            relays = Arc::clone(&before.relays);
            Arc::clone(&before.packets)
        };
        // Each packet voids the answers made from it, and new ones know nothing of the old answers.
        let keeps_answers = Arc::ptr_eq(&packets, &before.packets)
            && forwarding.servers() == self.forward.servers()
            && have_same_answers(&self.config, &config);
        let (local, answers) = if keeps_answers {
            (Arc::clone(&before.local), before.answers.clone())
        } else {
            (Arc::new(local_records(&config)), answers(&config))
        };
        let keeps_alive = Arc::ptr_eq(&packets, &before.packets)
            && Arc::ptr_eq(&dht, &before.dht)
            && config.keep_alive == self.config.keep_alive;
        let keep_alive = if keeps_alive {
            Arc::clone(&before.keep_alive)
        } else {
            keep_alive(&config, &packets, &dht, Some(&before.keep_alive))
        };
        let parts = Parts {
            started: before.started,
            suffixes: Suffixes::new(&config.names.suffixes),
            local,
            answers,
            config: config.clone(),
            listening,
            forward: Arc::clone(&self.forward),
            dht,
            store,
            packets,
            relays,
            keep_alive,
        };
        let service = match service(&config, &parts) {
            Ok(service) => service,
            Err(error) => {
                if !keeps_alive {
                    parts.keep_alive.stop();
                }
                if dht_changed {
                    dht_stop.cancel();
                }
                return Err(error);
            }
        };

        // From here on nothing fails but what leaves the rest as it should be.
        if !keeps_answers {
            parts.local.watch(parts.answers.clone());
        }
        self.forward.replace(forwarding);
        self.service.store(Arc::new(service));
        if dht_changed {
            self.dht_stop.cancel();
        }
        self.dht_stop = dht_stop;
        if !keeps_alive {
            before.keep_alive.stop();
        }
        self.parts.0.store(Arc::new(parts));
        self.places.set_limits(
            config.listen.max_tcp_connections,
            config.listen.max_tcp_connections_per_client,
        );
        if !self.inherited {
            self.listeners.retain(|running| {
                let kept = wanted.contains(&running.configured);
                if !kept {
                    running.stop.cancel();
                }
                kept
            });
        }
        for listener in added {
            if let Err(error) = self.listen(listener) {
                tracing::error!(%error, "an address is not served");
            }
        }
        self.tell_udp_addresses();
        let control_changed = config.control != self.config.control;
        self.config = config;
        if control_changed {
            self.open_control();
        }
        Ok(if keeps_answers { "kept" } else { "flushed" })
    }

    /// The host has slept for this long, and maybe wakes in another network: what is cached is older than it
    /// seems, and connections to upstreams, their response times and the keys of zones are learnt anew.
    async fn has_slept(&mut self, slept: Duration) {
        tracing::info!(
            seconds = slept.as_secs(),
            "the host has slept, and all that is cached is older"
        );
        let parts = self.parts.0.load_full();
        let held = Arc::clone(&parts);
        // There may be millions.
        let aged = tokio::task::spawn_blocking(move || {
            held.packets.grow_older(slept);
            held.answers.grow_older(slept);
        });
        if let Err(error) = aged.await {
            tracing::error!(%error, "not all that is cached is older");
        }
        match forwarding(&self.config, self.resolv_conf.as_deref(), &parts.listening) {
            // The system may not know its resolvers again before it has joined a network.
            Ok(new) if new.servers().is_empty() && !self.forward.servers().is_empty() => {}
            Ok(new) => self.forward.replace(new),
            Err(error) => tracing::error!(error, "the upstreams stay as they were"),
        }
    }

    fn listen(&mut self, listener: Listener) -> Result<(), StartError> {
        let stop = CancellationToken::new();
        let serves_udp = !listener.udp.is_empty();
        self.udp_threads
            .serve(listener.udp, &stop)
            .map_err(|error| {
                let address = listener.bound;
                StartError::Udp { address, error }
            })?;
        if let Some(socket) = listener.tcp {
            self.tasks.spawn(serve_tcp(
                socket,
                Arc::clone(&self.service),
                Arc::clone(&self.places),
                self.tasks.clone(),
                stop.clone(),
            ));
        }
        tracing::info!(address = %listener.bound, "listening");
        self.listeners.push(Running {
            configured: listener.configured,
            bound: listener.bound,
            serves_udp,
            stop,
        });
        Ok(())
    }

    /// Opens the control socket, in place of the one before.
    fn open_control(&mut self) {
        let before = std::mem::take(&mut self.control_stop);
        if let Some(path) = &self.config.control.socket
            && let Some(listener) = ControlListener::open(path)
        {
            let control = Arc::clone(&self.parts);
            let stop = self.control_stop.clone();
            tokio::spawn(serve_control(listener, control, stop));
        }
        before.cancel();
    }

    fn tell_udp_addresses(&self) {
        let served = self.listeners.iter().filter(|running| running.serves_udp);
        let addresses = served.map(|running| running.bound).collect();
        self.udp_addresses.send_replace(addresses);
    }

    fn status(&self, in_dht: bool) -> String {
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let dht = if in_dht {
            "in the DHT"
        } else {
            "joining the DHT"
        };
        format!("serving {}; {dht}", addresses.join(", "))
    }
}
