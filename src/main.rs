//! The `svol` command.

use std::io::{self, Write};

use clap::Parser;
use svol::cli::printable::Lines;
use svol::cli::{Cli, Command, Env, ExitStatus, Quiet, offline, resolve_log};
use svol::commands::{self, Failure, helper};
use svol::fuse::{mounter, probe};

fn main() -> ExitStatus {
    if mounter::is_asked_for() {
        return match mounter::run() {
            Ok(()) => ExitStatus::Done,
            Err(_) => ExitStatus::Failed,
        };
    }
    if probe::is_asked_for() {
        std::process::exit(probe::run());
    }
    if helper::is_asked_for() {
        std::process::exit(helper::run().into());
    }
    svol::memory::tame_allocator();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => status,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(Lines(io::stderr()), "svol: {}", failure.message);
            }
            failure.status
        }
    }
}

fn run(cli: &Cli) -> Result<ExitStatus, Failure> {
    // A mount logs for later; every other command speaks for itself, and logs what went wrong.
    if !matches!(cli.command, Command::Mount(_)) {
        let quiet = match cli.command {
            Command::FuseHelper(_) => Quiet::Daemon,
            _ => Quiet::Command,
        };
        let log = resolve_log(&cli.log, quiet, &Env::of_process()?)?;
        svol::logging::init(&log).map_err(Failure::usage)?;
    }
    let mut out = io::stdout();
    let mut err = Lines(io::stderr());
    let status = match cli.command {
        // A document, and what holds names and servers' words.
        Command::Status(_)
        | Command::Explain(_)
        | Command::Refresh(_)
        | Command::Reload(_)
        | Command::Probe(_)
        | Command::Doctor(_)
        | Command::Warm(_)
        | Command::Evict(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Stats(_)
        | Command::Upgrade(_) => dispatch(cli, &mut Lines(&mut out), &mut err)?,
        _ => dispatch(cli, &mut out, &mut err)?,
    };
    out.flush()?;
    Ok(status)
}

fn dispatch(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write) -> Result<ExitStatus, Failure> {
    match &cli.command {
        Command::Mount(args) => commands::mount::mount(args, &cli.log),
        Command::Unmount(args) => commands::mount::unmount(args, err),
        Command::Upgrade(args) => commands::upgrade::upgrade(args, out, err),
        Command::Status(args) => commands::status::status(args, out, err),
        Command::Validate(args) => Ok(offline::validate(args, &Env::of_process()?, out, err)?),
        Command::Convert(args) => commands::convert::convert(args, out, err),
        Command::Probe(args) => commands::probe::probe(args, out, err),
        Command::Doctor(args) => commands::doctor::doctor(args, out),
        Command::Explain(args) => commands::status::explain(args, out, err),
        Command::Reload(args) => commands::reload::reload(args, out, err),
        Command::Refresh(args) => commands::status::refresh(args, out, err),
        Command::Warm(args) => commands::act::warm(args, out, err),
        Command::Evict(args) => commands::act::evict(args, out, err),
        Command::Pin(args) => commands::act::pin(args, out, err),
        Command::Unpin(args) => commands::act::unpin(args, out, err),
        Command::Stats(args) => commands::act::stats(args, out, err),
        Command::Completions(args) => commands::manual::completions(args, out),
        Command::Man(args) => commands::manual::man(args, out),
        Command::Schema(_) => Ok(offline::schema(out)?),
        Command::Ls(args) => commands::look::ls(args, out, err),
        Command::Cat(args) => commands::look::cat(args, out, err),
        Command::Cache(args) => commands::cache::cache(args, out, err),
        Command::FuseHelper(args) => commands::fuse_helper::fuse_helper(args),
        Command::Demo(args) => {
            // On this thread, which is none of the runtime's: it waits for processes.
            commands::runtime()?.block_on(svol::demo::run(args.keep, out))?;
            Ok(ExitStatus::Done)
        }
    }
}
