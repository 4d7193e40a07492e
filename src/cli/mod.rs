//! The command line: one file a verb.

mod ask;
mod check;
mod control;
mod demo;
mod dht_client;
mod explain;
mod flush;
mod key;
mod key_file;
mod keygen;
mod log;
mod publish;
mod query;
mod relays;
mod resolve;
mod serve;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::serve::systemd::Inherited;

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/pkbridge/pkbridge.toml";
/// The exit code for a configuration that is refused: `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// The exit code of a command that has failed because of the network; it may be tried again.
const EXIT_NETWORK: u8 = 3;

/// The local DNS resolver for public-key names.
///
/// Answers names under an Ed25519 public key (z-base-32, bare or with the suffix pkarr) from signed
/// packets on the BitTorrent Mainline DHT, and forwards all other names.
#[derive(Debug, Parser)]
#[command(name = "pkbridge", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the resolver in the foreground until SIGTERM or SIGINT; SIGHUP reloads the configuration
    Serve(ConfigArgs),
    /// Checks the configuration and does nothing else: exit code 0, or 78 with the errors
    Check(ConfigArgs),
    /// Shows how the running service is: what it listens on, its caches, its DHT nodes; exit code 1 if it does not run
    Status(control::ControlArgs),
    /// Makes the running service forget what it has cached of a name, of a key, or of all
    Flush(flush::FlushArgs),
    /// Shows what the running service knows of a name, and what it would do at the next question
    Explain(explain::ExplainArgs),
    /// Asks a question and shows the answer: exit code 0 found, 1 not found, 3 failure
    Query(query::QueryArgs),
    /// Makes a key, which is a domain: writes its secret half to a new file, and shows its public half
    Keygen(keygen::KeygenArgs),
    /// Shows the public half of a secret key file
    Key(key::KeyArgs),
    /// Signs a zone file and puts it on the DHT: exit code 0 published and read back, 1 refused, 3 the
    /// network fails
    Publish(publish::PublishArgs),
    /// Shows the packet of a key straight from the DHT, and which nodes hold it: exit codes as of query
    Resolve(resolve::ResolveArgs),
    /// Shows all of it on this machine alone: a DHT, a key, a signed packet, and the resolver
    Demo(demo::DemoArgs),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The configuration, and whether it is the built-in default because there is no file. A file
    /// that was named must be there.
    fn load(&self) -> Result<(Config, bool), ConfigError> {
        match &self.config {
            Some(path) => Config::load(path).map(|config| (config, false)),
            None => match Config::load(DEFAULT_CONFIG.as_ref()) {
                Err(error) if error.is_not_found() => Ok((Config::default(), true)),
                loaded => loaded.map(|config| (config, false)),
            },
        }
    }
}

/// Runs the command of the program's arguments; ends the process itself on a usage error (exit
/// code 2).
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // Before there is a second thread, as it wants.
    let inherited = match &cli.command {
        Command::Serve(_) => Inherited::from_env(),
        Command::Check(_)
        | Command::Status(_)
        | Command::Flush(_)
        | Command::Explain(_)
        | Command::Query(_)
        | Command::Keygen(_)
        | Command::Key(_)
        | Command::Publish(_)
        | Command::Resolve(_)
        | Command::Demo(_) => Ok(Inherited::default()),
    };
    let inherited = match inherited {
        Ok(inherited) => inherited,
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(args, inherited).await,
            Command::Check(args) => check::run(&args),
            Command::Status(args) => status::run(&args).await,
            Command::Flush(args) => flush::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Query(args) => ExitCode::from(query::run(args, &mut std::io::stdout()).await),
            Command::Keygen(args) => keygen::run(&args),
            Command::Key(args) => key::run(&args),
            Command::Publish(args) => publish::run(args).await,
            Command::Resolve(args) => resolve::run(args).await,
            Command::Demo(args) => demo::run(args).await,
        }
    });
    // Blocking calls into the DHT library may not return; nothing waits for them.
    runtime.shutdown_background();
    code
}

/// Says what is wrong on standard error.
fn complain(error: &dyn std::fmt::Display) {
    use std::io::Write;
    // When standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "pkbridge: {error}");
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    complain(error);
    ExitCode::FAILURE
}

/// Shows what a command has come to on standard output.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The time as a packet's sequence number: microseconds of Unix time.
fn seq_of_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    u64::try_from(micros).unwrap_or(u64::MAX)
}

fn refuse_config(error: &ConfigError) -> ExitCode {
    for line in error.to_string().lines() {
        complain(&line);
    }
    ExitCode::from(EXIT_CONFIG)
}
