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
        None => write_page(commands(), "1", out)?,
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
        write_file(directory, command, "1")?;
    }
    write_file(directory, HelperArgs::command(), "8")
}

fn write_file(directory: &Path, command: Command, section: &str) -> io::Result<()> {
    let mut page = Vec::new();
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = directory.join(format!("{name}.{section}"));
    write_page(command, section, &mut page)?;
    std::fs::write(file, page)
}

/// Writes one page. What follows the options keeps its lines, which the generator would join.
fn write_page(command: Command, section: &str, out: &mut dyn Write) -> io::Result<()> {
    let notes = command.get_after_help().map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let page = Man::new(command)
        .section(section)
        .source(concat!("svol ", env!("CARGO_PKG_VERSION")))
        .manual("Shared Volume");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    if has_commands {
        page.render_subcommands_section(out)?;
    }
    if let Some(notes) = notes {
        writeln!(out, ".SH NOTES\n.nf\n{}\n.fi", escape(&notes))?;
    }
    Ok(())
}

/// Returns text as roff takes it: each line begins with what stands for nothing, lest it be an order.
fn escape(text: &str) -> String {
    let plain = text.replace('\\', "\\e").replace('-', "\\-");
    let lines: Vec<String> = plain.lines().map(|line| format!("\\&{line}")).collect();
    lines.join("\n")
}
