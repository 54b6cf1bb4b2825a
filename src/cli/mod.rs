//! The command line: one file a command. Diagnostics go to standard error.

mod check;
mod explain;
mod fetch;
mod keys;
mod limits;
mod plans;
mod run;
mod schema;
mod usage;

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Build, load_text, load_then};
use crate::gateway::document::Document;

/// Usage or configuration (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

/// Where a configuration is looked for if none is named.
const USUAL: [&str; 2] = ["conf/portcullis.yaml", "/etc/portcullis/portcullis.yaml"];

/// The version, as `version` and the status address tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An edge gateway that is checked before it runs, and can say why it refused.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "First try, without a file:\n  portcullis run --to http://127.0.0.1:3000\n\n\
    Then, with one:\n  portcullis check --config conf/portcullis.yaml\n  portcullis run --config conf/portcullis.yaml\n  \
    portcullis explain https://127.0.0.1:8443/hello\n\n\
    Exit statuses: 0 done as asked, 2 explain, fetch: refused, 64 usage or configuration, 1 anything else.")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, until SIGTERM (drains) or SIGINT (stops at once)
    Run(Run),
    /// Check the configuration, and say all that is wrong with it
    Check(ConfigFile),
    /// Tell what would become of a request, and which lines decide it; nothing is sent
    Explain(Explain),
    /// Fetch a URL by the rules of `server.egress`, as the gateway would, and tell what comes
    Fetch(Fetch),
    /// Make, show, end, rotate, move to other plans and import API keys; gateways that run know within a second
    Keys(keys::Keys),
    /// Show the usage plans, and how many keys are in each
    Plans(plans::Plans),
    /// Show what keys have used of their quotas; what gateways that run have counted since they last wrote (`flush`) is not in it
    Usage(usage::Usage),
    /// Show from access logs how often keys ask and what limits refuse, and propose a limit
    Limits(limits::Limits),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print the version
    Version,
}

#[derive(Clone, Debug, Args)]
struct ConfigFile {
    /// The configuration [default: conf/portcullis.yaml, then /etc/portcullis/portcullis.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Without a file: forward everything from 127.0.0.1:8080 to this URL
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    to: Option<String>,
}

#[derive(Debug, Args)]
struct Fetch {
    #[command(flatten)]
    file: ConfigFile,
    /// The URL
    #[arg(value_name = "URL")]
    url: String,
}

#[derive(Debug, Args)]
struct Explain {
    #[command(flatten)]
    file: ConfigFile,
    /// The method
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A header field, such as `origin: https://app.example.com`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address that asks
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    client: IpAddr,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The URL; its path is taken as typed
    #[arg(value_name = "URL")]
    url: String,
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    if line.command.file().is_some_and(ConfigFile::is_nowhere) {
        let _ = writeln!(
            err,
            "error: there is no configuration: neither `{}` nor `{}` exists\n  = help: name one with `--config FILE`, \
             or try without: `portcullis run --to http://127.0.0.1:3000`",
            USUAL[0], USUAL[1]
        );
        return ExitCode::from(USAGE);
    }
    let status = match line.command {
        Command::Run(asked) => run::run(&asked, &mut err),
        Command::Check(file) => check::check(&file.path(), &mut out, &mut err).unwrap_or(1),
        Command::Explain(asked) => explain::explain(&asked, &mut out, &mut err),
        Command::Fetch(asked) => fetch::fetch(&asked, &mut out, &mut err),
        Command::Keys(asked) => keys::keys(&asked, &mut out, &mut err),
        Command::Plans(asked) => plans::plans(&asked, &mut out, &mut err),
        Command::Usage(asked) => usage::usage(&asked, &mut out, &mut err),
        Command::Limits(asked) => limits::limits(&asked, &mut out, &mut err),
        Command::Schema => schema::schema(&mut out).unwrap_or(1),
        Command::Version => {
            let written = writeln!(out, "portcullis {VERSION}");
            u8::from(written.is_err())
        }
    };
    ExitCode::from(status)
}

impl Command {
    /// The file that it needs.
    fn file(&self) -> Option<&ConfigFile> {
        match self {
            Self::Run(asked) if asked.to.is_some() => None,
            Self::Run(asked) => Some(&asked.file),
            Self::Check(file) => Some(file),
            Self::Explain(asked) => Some(&asked.file),
            Self::Fetch(asked) => Some(&asked.file),
            Self::Keys(asked) => asked.file(),
            Self::Plans(asked) => Some(&asked.file),
            Self::Usage(asked) => Some(&asked.file),
            Self::Limits(asked) => Some(&asked.file),
            Self::Schema | Self::Version => None,
        }
    }
}

impl ConfigFile {
    /// Whether no file was named and none is in the usual places.
    fn is_nowhere(&self) -> bool {
        self.config.is_none() && !USUAL.iter().any(|path| Path::new(path).exists())
    }

    /// The file asked for, else the first of the usual places that is there, else the first.
    fn path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let there = USUAL.into_iter().find(|path| Path::new(path).exists());
        PathBuf::from(there.unwrap_or(USUAL[0]))
    }

    /// Loads, and compiles what was loaded.
    fn compile<R>(
        &self,
        build: &mut Build,
        compile: impl FnOnce(&Document, &mut Build) -> Option<R>,
    ) -> Option<R> {
        load_then(&self.path(), &environment, build, compile)
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration of `run --to`: one listener, one route, one upstream.
fn document_to(url: &str, build: &mut Build) -> Option<Document> {
    let (scheme, authority) = url.split_once("://").unwrap_or(("http", url));
    let authority = authority.trim_end_matches('/');
    let tls = scheme == "https";
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if !matches!(scheme, "http" | "https") || authority.is_empty() || !authority.chars().all(plain) {
        let cure = "write such as `http://127.0.0.1:3000`: a scheme and a host, no path";
        build.errors.push(
            &crate::config::Site::new("--to", 0, 0),
            "",
            format!("`{url}` cannot be forwarded to"),
            cure,
        );
        return None;
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = match (has_port, tls) {
        (true, _) => authority.to_owned(),
        (false, true) => format!("{authority}:443"),
        (false, false) => format!("{authority}:80"),
    };
    let (tls, host) = if tls { ("{verify: true}", "server") } else { ("none", "keep") };
    let text = format!(
        "listeners: [{{address: '127.0.0.1:8080'}}]\n\
         upstreams: {{to: {{servers: ['{address}'], tls: {tls}, host: {host}}}}}\n\
         routes: [{{name: everything, auth: none, upstream: to, upgrade: [websocket]}}]\n"
    );
    load_text("--to", &text, &environment, build)
}
