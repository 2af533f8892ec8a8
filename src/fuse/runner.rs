//! Runs the command of the change hook for the daemon, which may run no program.
//!
//! Which program is told once, before the daemon reads a byte of a source; later orders only say
//! that it is to be run. One at a time, within a time limit, in a process group of its own that is
//! killed as a whole. Nothing here waits for it: it may well hang on the mount itself.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// A program that may be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name or path, then its arguments; not empty.
    pub argv: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// It has not ended.
    Runs,
    /// It ended and says that it succeeded.
    Done,
    /// It ended otherwise, or was ended: why, for people.
    Failed(String),
}

/// The one program that is run.
#[derive(Debug, Default)]
pub(super) struct Runner {
    program: Option<Program>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    since: Instant,
    is_killed: bool,
}

impl Runner {
    /// Returns one that runs `program`, if any.
    pub(super) fn new(program: Option<Program>) -> Runner {
        Runner {
            program,
            running: None,
        }
    }

    /// Returns the number of the process that runs, or was not waited for yet.
    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Starts the program with `input` as its standard input; what it writes goes to `output`. Of
    /// `variables` it gets those that begin with `SVOL_`, and of ours `PATH`.
    pub(super) fn start(
        &mut self,
        variables: Vec<(String, String)>,
        input: OwnedFd,
        output: OwnedFd,
    ) -> io::Result<()> {
        let none = || io::Error::other("no program was named when the volume was mounted");
        let program = self.program.clone().ok_or_else(none)?;
        if let Some(running) = &mut self.running
            && running.child.try_wait()?.is_none()
        {
            // Whoever started it may have died, and nobody else looks at the time.
            if running.since.elapsed() >= program.limit {
                running.kill();
            }
            return Err(io::Error::other("the last run has not ended yet"));
        }
        self.running = None;
        let (name, arguments) = program.argv.split_first().ok_or_else(none)?;
        let ours = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("SVOL_"));
        let mut command = Command::new(name);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(ours)
            .current_dir("/")
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output))
            .process_group(0);
        // SAFETY: between fork and exec, only what is done with signals is set. Ours are ignored or
        // held back, which a program would inherit.
        unsafe {
            command.pre_exec(|| {
                let mut none = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run {name}: {error}")))?;
        self.running = Some(Running {
            child,
            since: Instant::now(),
            is_killed: false,
        });
        Ok(())
    }

    /// Returns what became of the run, and ends it where its time is up.
    pub(super) fn step(&mut self) -> io::Result<Run> {
        let none = || io::Error::other("no run is under way");
        let running = self.running.as_mut().ok_or_else(none)?;
        let limit = self.program.as_ref().map_or(Duration::ZERO, |p| p.limit);
        if let Some(status) = running.child.try_wait()? {
            self.running = None;
            return Ok(ended(status));
        }
        if running.since.elapsed() < limit {
            return Ok(Run::Runs);
        }
        running.kill();
        Ok(Run::Failed(format!(
            "it did not end within {limit:?} and was killed"
        )))
    }

    /// Ends what runs, without waiting for its end.
    pub(super) fn give_up(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill();
        }
    }
}

impl Running {
    fn kill(&mut self) {
        // Its number is its own as long as it was not waited for.
        if self.is_killed || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.is_killed = true;
    }
}

fn ended(status: ExitStatus) -> Run {
    match (status.code(), status.signal()) {
        (Some(0), _) => Run::Done,
        (Some(code), _) => Run::Failed(format!("it ended with status {code}")),
        (None, signal) => Run::Failed(format!("signal {} ended it", signal.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn shell(script: &str, limit: Duration) -> Runner {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Runner::new(Some(Program { argv, limit }))
    }

    /// Runs it to its end; returns what became of it and what it wrote.
    fn run(mut runner: Runner) -> (Run, String) {
        let (mut reader, writer) = io::pipe().unwrap();
        let variables = vec![
            ("SVOL_VOLUME".to_owned(), "v".to_owned()),
            ("LD_PRELOAD".to_owned(), "x".to_owned()),
        ];
        runner.start(variables, null(), writer.into()).unwrap();
        let ended = loop {
            match runner.step().unwrap() {
                Run::Runs => std::thread::sleep(Duration::from_millis(2)),
                ended => break ended,
            }
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (ended, text)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_runs_with_what_it_may_have() {
        let (ended, text) = run(shell("env | grep -v ^_ | cut -d= -f1 | sort", LONG));
        assert_eq!(ended, Run::Done);
        assert_eq!(text, "PATH\nPWD\nSVOL_VOLUME\n");
        let (ended, text) = run(shell("echo no >&2; exit 3", LONG));
        assert_eq!(ended, Run::Failed("it ended with status 3".into()));
        assert_eq!(text, "no\n");
        let (ended, _) = run(shell("kill -TERM $$; sleep 60", LONG));
        assert_eq!(ended, Run::Failed("signal 15 ended it".into()));
    }

    #[test]
    fn one_at_a_time() {
        let mut runner = shell("sleep 600", LONG);
        runner.start(Vec::new(), null(), null()).unwrap();
        assert!(runner.start(Vec::new(), null(), null()).is_err());
        runner.give_up();
        while runner.step().unwrap() == Run::Runs {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_slow_program_is_ended_with_all_that_it_started() {
        // Its output's end comes only when the process in the background is gone too.
        let (ended, text) = run(shell("sleep 600 & sleep 600", Duration::from_millis(50)));
        assert!(matches!(ended, Run::Failed(why) if why.contains("was killed")));
        assert_eq!(text, "");
    }

    #[test]
    fn nothing_is_run_that_was_not_named() {
        let mut runner = Runner::new(None);
        assert!(runner.start(Vec::new(), null(), null()).is_err());
        let argv = vec!["/nonexistent/program".to_owned()];
        let limit = Duration::from_secs(1);
        let mut runner = Runner::new(Some(Program { argv, limit }));
        let error = runner.start(Vec::new(), null(), null()).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/program"),
            "{error}"
        );
        assert!(runner.step().is_err());
    }
}
