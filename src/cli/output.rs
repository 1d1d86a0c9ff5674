//! What is printed, and where: text or JSON, colour on terminals only, no panic when nobody reads.

use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use onnx_opt::session::{Destination, Error};
use serde::Serialize;

/// Red and bold: errors.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Green: what was shown to be right.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Yellow: what is worth a look.
pub const NOTE: Style = AnsiColor::Yellow.on_default();
/// Bold: titles.
pub const TITLE: Style = Style::new().bold();

/// Where reports go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    /// Because a model goes to standard output.
    Err,
}

impl Stream {
    /// Where the report goes when a model goes to `destination`.
    ///
    /// # Errors
    /// If that is a terminal.
    pub fn beside(destination: &Destination) -> Result<Self, Error> {
        match destination {
            Destination::File(_) => Ok(Self::Out),
            Destination::Stdout if io::stdout().is_terminal() => Err(Error::ModelOnTerminal),
            Destination::Stdout => Ok(Self::Err),
        }
    }

    /// Prints text. That nobody reads it is no error.
    pub fn print(self, text: &str) -> Result<(), Error> {
        let written = match self {
            Self::Out => write_all(io::stdout().lock(), text),
            Self::Err => write_all(io::stderr().lock(), text),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Print(error)),
            _ => Ok(()),
        }
    }

    /// Prints a value as JSON.
    pub fn print_json(self, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Error::Print(error.into()))?;
        self.print(&(text + "\n"))
    }

    /// The text in a style, if the stream shows styles.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.has_colour() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn has_colour(self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        };
        terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }
}

fn write_all(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// An error as the program tells it.
#[derive(Serialize)]
pub struct Complaint<'a> {
    pub error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'a str>,
    pub exit_code: u8,
}

impl Complaint<'_> {
    /// One line for the error and one for the way out on standard error, or JSON on standard output. Where that fails
    /// too, nobody is left to tell.
    pub fn say(&self, json: bool) {
        if json {
            let _ = Stream::Out.print_json(self);
            return;
        }
        let stream = Stream::Err;
        let mut text = format!("{} {}\n", stream.paint(BAD, "error:"), one_line(self.error));
        if let Some(help) = self.help {
            text += &format!("{} {help}\n", stream.paint(TITLE, "help:"));
        }
        let _ = stream.print(&text);
    }
}

/// Names in a file may hold anything.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
