//! An FTP server of one file that does what a script says, lies included.

use std::sync::{Arc, Mutex};

use svol::source::ftp::FtpSettings;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The bytes of the file, which is `/f` and has a time in 2020.
pub const FILE: &[u8] = &[b'x'; 1000];

/// What to do with a command.
pub enum Answer {
    /// Sends these bytes as they are.
    Say(Vec<u8>),
    /// Sends these bytes over the data connection, closes it, then says this.
    Data(Vec<u8>, String),
    /// Sends these bytes, then nothing more, and keeps both connections open.
    Stall(Vec<u8>),
    /// Closes the connection.
    Close,
}

/// Returns a reply of one line.
pub fn say(line: &str) -> Option<Answer> {
    Some(Answer::Say(format!("{line}\r\n").into()))
}

/// Returns data and the usual reply.
pub fn data(bytes: impl Into<Vec<u8>>) -> Option<Answer> {
    Some(Answer::Data(bytes.into(), "226 Done".into()))
}

/// A running server. Ends when dropped.
pub struct ScriptedFtp {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl ScriptedFtp {
    /// Starts a server that asks `script` what to do with each command, the greeting being the
    /// answer to `""`. What the script leaves alone is answered properly.
    pub async fn start(
        script: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    ) -> ScriptedFtp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let (seen, script) = (seen.clone(), Arc::new(script));
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, seen.clone(), script.clone()));
                }
            }
        });
        ScriptedFtp { port, seen, task }
    }

    /// Returns the commands so far; each connection begins with an empty one.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns how many commands of this verb came so far.
    pub fn count(&self, verb: &str) -> usize {
        let seen = self.seen();
        let verb_of = |line: &String| line.split(' ').next().unwrap_or_default() == verb;
        seen.iter().filter(|line| verb_of(line)).count()
    }

    /// Returns settings that reach the server.
    pub fn settings(&self) -> FtpSettings {
        FtpSettings {
            port: Some(self.port),
            ..FtpSettings::new("127.0.0.1")
        }
    }
}

impl Drop for ScriptedFtp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    seen: Arc<Mutex<Vec<String>>>,
    script: Arc<impl Fn(&str) -> Option<Answer>>,
) -> Option<()> {
    let mut control = BufReader::new(stream);
    let mut passive: Option<TcpListener> = None;
    let mut offset = 0;
    let mut line = String::new();
    loop {
        let command = line.trim_end_matches(['\r', '\n']).to_owned();
        seen.lock().unwrap().push(command.clone());
        if matches!(command.as_str(), "EPSV" | "PASV") {
            passive = Some(TcpListener::bind("127.0.0.1:0").await.ok()?);
        }
        let port = passive
            .as_ref()
            .map_or(0, |p| p.local_addr().unwrap().port());
        let answer = script(&command).unwrap_or_else(|| usual(&command, port, &mut offset));
        match answer {
            Answer::Say(bytes) => {
                // A script cannot know the port: it is put in here.
                let text = String::from_utf8_lossy(&bytes);
                let bytes = match text.contains("PORT") {
                    true => text
                        .replace("PORT", &format!("{},{}", port / 256, port % 256))
                        .into(),
                    false => bytes,
                };
                control.write_all(&bytes).await.ok()?;
            }
            Answer::Data(bytes, last) => {
                control.write_all(b"150 Here it comes\r\n").await.ok()?;
                let (mut data, _) = passive.as_ref()?.accept().await.ok()?;
                let _ = data.write_all(&bytes).await;
                drop(data);
                control
                    .write_all(format!("{last}\r\n").as_bytes())
                    .await
                    .ok()?;
            }
            Answer::Stall(bytes) => {
                control.write_all(b"150 Here it comes\r\n").await.ok()?;
                let (mut data, _) = passive.as_ref()?.accept().await.ok()?;
                let _ = data.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
            Answer::Close => return None,
        }
        line.clear();
        if control.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
    }
}

fn usual(command: &str, port: u16, offset: &mut usize) -> Answer {
    let (verb, argument) = command.split_once(' ').unwrap_or((command, ""));
    let is_file = argument == "/f";
    let line = match verb {
        "" => "220 Ready".into(),
        "USER" => "331 Password, please".into(),
        "PASS" => "230 Welcome".into(),
        "FEAT" => "211-Features\r\n REST STREAM\r\n SIZE\r\n MDTM\r\n211 End".into(),
        "PWD" => "257 \"/\"".into(),
        "EPSV" => format!("229 Extended (|||{port}|)"),
        "PASV" => format!("227 Passive (127,0,0,1,{},{})", port / 256, port % 256),
        "CWD" if argument == "/" => "250 There".into(),
        "SIZE" if is_file => format!("213 {}", FILE.len()),
        "MDTM" if is_file => "213 20200913122640".into(),
        "REST" => {
            *offset = argument.parse().unwrap_or(0);
            "350 From there".into()
        }
        "RETR" if is_file => {
            let from = std::mem::take(offset).min(FILE.len());
            return Answer::Data(FILE[from..].into(), "226 Done".into());
        }
        "LIST" => {
            let size = FILE.len();
            let lines = format!(
                "total 3\r\ndrwxr-xr-x 2 u g 4096 Sep 13  2020 .\r\n\
                 -rw-r--r-- 1 u g {size} Sep 13  2020 f\r\n"
            );
            return Answer::Data(lines.into(), "226 Done".into());
        }
        "TYPE" | "NOOP" => "200 Fine".into(),
        _ => "550 No such thing".into(),
    };
    Answer::Say(format!("{line}\r\n").into())
}
