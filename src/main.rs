//! The `svol` command.

use std::io::{self, Write};

use clap::Parser;
use svol::cli::{Cli, Command, ExitStatus, offline};

fn main() -> ExitStatus {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => status,
        // Whoever read the output has gone, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Failed,
        Err(error) => {
            eprintln!("svol: {error}");
            ExitStatus::Failed
        }
    }
}

fn run(cli: &Cli) -> io::Result<ExitStatus> {
    let mut out = io::stdout().lock();
    let status = match &cli.command {
        Command::Validate(args) => offline::validate(args, &mut out, &mut io::stderr()),
        Command::Schema(_) => offline::schema(&mut out),
        _ => Err(io::Error::other("not built yet")),
    }?;
    out.flush()?;
    Ok(status)
}
