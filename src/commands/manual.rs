//! `svol completions` and `svol man`: what is made from the command line's own description.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Failure;
use crate::cli::args::{CompletionsArgs, HelperArgs, ManArgs};
use crate::cli::{Cli, ExitStatus};

/// Prints a shell's completion script.
pub fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "svol", &mut script);
    out.write_all(&script)?;
    Ok(ExitStatus::Done)
}

/// Writes all manual pages into a directory, or prints that of `svol` itself.
pub fn man(args: &ManArgs, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    match &args.directory {
        Some(directory) => {
            write_all(directory).map_err(|e| {
                let at = directory.display();
                Failure::failed(format!("{at}: {e}; name a directory that can be written"))
            })?;
        }
        None => page(commands(), "1").render(out)?,
    }
    Ok(ExitStatus::Done)
}

fn commands() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Which gives each command its whole name, such as svol-mount.
    command.build();
    command
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut left = vec![commands()];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().cloned());
        page(command, "1").generate_to(directory)?;
    }
    page(HelperArgs::command(), "8").generate_to(directory)?;
    Ok(())
}

fn page(command: Command, section: &str) -> Man {
    let version = concat!("svol ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command).section(section).source(version);
    page.manual("Shared Volume")
}
