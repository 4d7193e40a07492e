//! Logs: to standard error, as people or the journal read them.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;

/// The filter for a level or directives of the configuration. A plain level is pkbridge's own.
pub(super) fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let directives = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        beside_libraries(&format!("pkbridge={level}"))
    };
    EnvFilter::builder().parse(directives)
}

/// A directive for pkbridge's own lines. Its libraries speak up from warnings on, but the DHT library and the
/// recursor: they report at that level what is told in pkbridge's own words, and each question that fails.
pub(super) fn beside_libraries(own: &str) -> String {
    format!("warn,mainline=off,hickory_resolver=off,{own}")
}

/// Changes the level while the program runs.
pub(super) type SetLevel = Box<dyn Fn(&str) + Send>;

/// Starts logging at `level`. `RUST_LOG` wins over it, then and later.
///
/// # Errors
/// If `RUST_LOG` or `level` is no filter.
pub(super) fn start(level: &str) -> Result<SetLevel, String> {
    let variable = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let from_variable = !variable.is_empty();
    let chosen = if from_variable {
        EnvFilter::builder().parse(&variable)
    } else {
        filter(level)
    };
    let chosen = chosen.map_err(|error| match from_variable {
        true => format!("{}: {error}", EnvFilter::DEFAULT_ENV),
        false => format!("[log] level: {error}"),
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(chosen)
        .with_writer(std::io::stderr);
    // `JOURNAL_STREAM` tells that standard error goes to the journal (systemd.exec(5)).
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let format = Journal(Format::default().without_time().with_ansi(false));
        let logs = logs.event_format(format).with_filter_reloading();
        let handle = logs.reload_handle();
        init(logs, set_level(handle, from_variable))
    } else {
        let ansi = std::io::stderr().is_terminal();
        let logs = logs.with_ansi(ansi).with_filter_reloading();
        let handle = logs.reload_handle();
        init(logs, set_level(handle, from_variable))
    }
}

fn init(logs: impl SubscriberInitExt, set_level: SetLevel) -> Result<SetLevel, String> {
    logs.try_init().map_err(|error| error.to_string())?;
    Ok(set_level)
}

fn set_level<S: 'static>(handle: Handle<EnvFilter, S>, fixed: bool) -> SetLevel {
    Box::new(move |level| {
        if !fixed && let Ok(filter) = filter(level) {
            // An error means that logging has ended.
            let _ = handle.reload(filter);
        }
    })
}

/// Lines with the priority in front, as sd-daemon(3) has it; the journal knows the time.
struct Journal<T>(Format<T, ()>);

impl<S, N, T> FormatEvent<S, N> for Journal<T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<T, ()>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
