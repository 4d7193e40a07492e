//! `pkbridge serve`: the daemon.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, DEFAULT_CONFIG, EXIT_CONFIG, complain, fail, log, refuse_config};
use crate::config::Config;
use crate::serve::systemd::Inherited;
use crate::server::{Options, Server};

/// The system's list of resolvers (resolv.conf(5)).
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Runs until a signal says stop.
pub(super) async fn run(args: ConfigArgs, inherited: Inherited) -> ExitCode {
    let (config, built_in) = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => return refuse_config(&error),
    };
    let set_level = match log::start(&config.log.level) {
        Ok(set_level) => set_level,
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    tracing::info!("pkbridge {}", env!("CARGO_PKG_VERSION"));
    if built_in {
        tracing::info!("{DEFAULT_CONFIG} is not there; the built-in defaults apply");
    }
    let options = Options {
        inherited,
        resolv_conf: Some(RESOLV_CONF.into()),
        reloaded: Some(Box::new(move |config| set_level(&config.log.level))),
    };
    // Before anything that takes time: a signal that comes meanwhile must not kill.
    let (Ok(signals), Ok(hangup)) = (stop_signals(), signal(SignalKind::hangup())) else {
        return fail(&"cannot listen for signals");
    };
    let server = match Server::start(config, options) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    let (sender, reload) = mpsc::channel(1);
    tokio::spawn(reload_on_hangup(hangup, args, sender));
    let stopped = stop.clone();
    tokio::spawn(stop_on_signal(signals, stopped));
    server.run(stop, reload).await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

fn stop_signals() -> std::io::Result<[Signal; 2]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ])
}

/// The first signal stops in peace, the second at once.
async fn stop_on_signal([mut terminate, mut interrupt]: [Signal; 2], stop: CancellationToken) {
    for _ in 0..2 {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            tracing::warn!("stopped at once");
            std::process::exit(1);
        }
        tracing::info!("stopping; questions in flight may finish");
        stop.cancel();
    }
}

async fn reload_on_hangup(mut hangup: Signal, args: ConfigArgs, reload: mpsc::Sender<Config>) {
    while hangup.recv().await.is_some() {
        let error = match args.load() {
            Ok((config, _)) => match log::filter(&config.log.level) {
                Ok(_) => {
                    if reload.send(config).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => format!("[log] level: {error}"),
            },
            Err(error) => error.to_string(),
        };
        for line in error.lines() {
            tracing::error!("{line}");
        }
        tracing::error!("the old configuration stays in force");
    }
}
