//! Log messages in the two shapes that runc gives them: logrus text, and one JSON object a line.

mod violations;

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Mutex,
    time::SystemTime,
};

use anyhow::Context;
use mote_runtime::log_file;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::args::{LogFormat, LogOptions};

/// Sends what is logged from now on where the options say.
pub(crate) fn start(options: &LogOptions) -> anyhow::Result<()> {
    let level = if options.debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let builder = tracing_subscriber::fmt().with_max_level(level).event_format(Shape(options.log_format));
    match &options.log {
        Some(path) => {
            let file = log_file::open(path, File::options().append(true))
                .with_context(|| format!("cannot open the log file {}", path.display()))?;
            violations::report_to(file.as_raw_fd(), options.log_format);
            let file = LogFile { file, path: path.clone(), failed: false };
            builder.with_writer(Mutex::new(file)).init();
        }
        None => {
            violations::report_to(std::io::stderr().as_raw_fd(), options.log_format);
            builder.with_writer(std::io::stderr).init();
        }
    }
    Ok(())
}

/// A log file. That it cannot be written to, or that a pipe is full, is said once, on standard error; what is logged then is lost, and
/// nothing else.
struct LogFile {
    file: File,
    path: PathBuf,
    failed: bool,
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            // There is nowhere else to say it.
            let _ =
                writeln!(io::stderr(), "mote: cannot write to the log file {}: {error}", self.path.display());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shape(LogFormat);

impl<S, N> FormatEvent<S, N> for Shape
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let level = name(*event.metadata().level());
        match self.0 {
            LogFormat::Text => {
                write!(out, "time=\"{time}\" level={level} msg={:?}", fields.message)?;
                for (key, value) in fields.others {
                    write!(out, " {key}={value:?}")?;
                }
            }
            LogFormat::Json => {
                let mut object = serde_json::Map::new();
                for (key, value) in fields.others {
                    object.insert(key.into(), value.into());
                }
                object.insert("level".into(), level.into());
                object.insert("msg".into(), fields.message.into());
                object.insert("time".into(), time.to_string().into());
                write!(out, "{}", serde_json::Value::from(object))?;
            }
        }
        writeln!(out)
    }
}

/// logrus's names.
fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.others.push((name, text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.others.push((name, value.to_owned())),
        }
    }
}
