//! The server program: reads its flags, opens the journal, and serves.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;

use djqs::server::{Config, Listen, Server, limits};
use djqs::{Broker, broker};
use ending::{end_soon, handle_signals};
use flags::{Flags, format_size};

#[path = "server/ending.rs"]
mod ending;
#[path = "server/flags.rs"]
mod flags;
#[path = "server/journal.rs"]
mod journal;
#[path = "common/rules.rs"]
mod rules;
#[path = "server/scheduling.rs"]
mod scheduling;
#[path = "server/systemd.rs"]
mod systemd;

/// The exit code if the server can't start, or fails.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let flags = Flags::of_this_process();
    let level = ["warn", "info", "debug"][usize::from(flags.verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("server: {problem}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(flags: Flags) -> Result<(), String> {
    if let Some(directory) = &flags.verify {
        return journal::verify(directory);
    }
    // Before any thread is started, because threads inherit it.
    scheduling::schedule_as_batch();
    limits::raise_open_files();
    let cap = limits::connection_cap();
    let connections_max = flags.max_connections.unwrap_or(cap.connections);
    if connections_max > cap.connections {
        log::warn!("--max-connections {connections_max} is more than the system allows: {}", cap.because);
    }
    let memory_max = flags.max_memory.unwrap_or_else(limits::default_memory_max);
    let mut config = broker::Config::default();
    config.memory_max = memory_max;
    config.on_failure = Some(Arc::new(end_soon));
    let (broker, promise) = if flags.memory {
        (Broker::in_memory(config), "jobs are in memory only: a restart loses them (--memory)".into())
    } else {
        journal::open(&flags, config)?
    };
    let mut config = Config::default();
    config.frames.body_max = flags.max_body as usize;
    config.connections_max = connections_max;
    config.frame_timeout = flags.frame_timeout;
    config.write_timeout = flags.write_timeout;
    let (server, named) = listen(&flags, broker.clone(), config)?;
    let can_not_serve = |error: io::Error| format!("can't serve on {named}: {error}");
    let address = server.address_text().map_err(can_not_serve)?;
    let stop = server.stop_handle().map_err(can_not_serve)?;
    handle_signals(stop, broker.clone()).map_err(|error| format!("can't handle signals: {error}"))?;
    if server.local_addr().is_ok_and(|address| !address.ip().is_loopback()) {
        log::warn!(
            "{address} is not a loopback address, and there is no authentication: anyone who can connect has full control"
        );
    }
    let text = format!(
        "djqs-server {} listens on {address}\n{promise}\n\
         room for {connections_max} connections{} and {} of jobs\n",
        env!("CARGO_PKG_VERSION"),
        if flags.max_connections.is_none() { format!(" (by {})", cap.because) } else { String::new() },
        format_size(memory_max),
    );
    // It serves even if standard output is closed. Who reads it gets all lines at once.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    drop(stdout);
    server.run();
    broker.close().map_err(|error| error.to_string())
}

/// Listens on the socket that systemd passed, or else where the flags say. Returns also the name of that
/// place.
fn listen(flags: &Flags, broker: Broker, config: Config) -> Result<(Server, String), String> {
    let inherited = systemd::inherited().map_err(|error| format!("can't listen: {error}"))?;
    if let Some(socket) = inherited {
        let named = "the socket that systemd passed".to_owned();
        let server = Server::on(socket, broker, config);
        return server
            .map(|server| (server, named.clone()))
            .map_err(|error| format!("can't serve on {named}: {error}"));
    }
    let (listen, named) = match flags.listen.strip_prefix("unix:") {
        Some("") => {
            return Err("can't listen on unix: the path is missing, as in unix:/run/djqs.sock".into());
        }
        Some(path) => (Listen::Unix { path: path.into(), mode: flags.socket_mode }, flags.listen.clone()),
        None if flags.socket_mode.is_some() => {
            return Err("--socket-mode is for a Unix socket: listen on one with -l unix:PATH".into());
        }
        None => {
            let address = resolve(&flags.listen, flags.port)?;
            (Listen::Tcp(address), address.to_string())
        }
    };
    let server = Server::listen(&listen, broker, config).map_err(|error| {
        format!(
            "can't listen on {named}: {error}\n  is another server running there? choose another address with -l and -p"
        )
    })?;
    Ok((server, named))
}

/// The first address of the host.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("can't find the address {host:?}: {error}"))?;
    found.into_iter().next().ok_or_else(|| format!("the name {host:?} has no address"))
}
