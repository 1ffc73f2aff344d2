//! A real browser: Chromium without a window, steered over its debugging protocol.
//!
//! The protocol's messages go through a pair of pipes (`--remote-debugging-pipe`), each ended by a zero byte, so that no
//! port has to be found and nobody else can steer it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::process::Process;
use crate::{place, wait};

/// Longest time for one answer of the browser, which shares two cores with whatever is tested.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Width of the window, pixels.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// What the system says that the reader likes.
    pub scheme: &'static str,
}

impl View {
    /// A desk at night.
    pub const DARK: View = View { width: 1280, height: 900, scheme: "dark" };
    /// A desk by day.
    pub const LIGHT: View = View { width: 1280, height: 900, scheme: "light" };
    /// A telephone.
    pub const PHONE: View = View { width: 390, height: 844, scheme: "dark" };
}

/// A running browser.
pub struct Browser {
    pipes: Arc<Pipes>,
    // Fields are dropped in this order: the program before its folder.
    _process: Process,
    _folder: TempDir,
}

struct Pipes {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    events: Vec<Value>,
}

impl Browser {
    /// Starts one with an empty profile.
    pub async fn start() -> Self {
        let folder = place::scratch();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        for path in [&to, &from] {
            mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("the folder is ours");
        }
        // Read and write, so that opening waits for nobody; the browser's ends are opened by the shell that becomes it.
        let open = |path: &Path| -> io::Result<(pipe::Sender, pipe::Receiver)> {
            let mut options = pipe::OpenOptions::new();
            options.read_write(true);
            Ok((options.open_sender(path)?, options.open_receiver(path)?))
        };
        let ((sender, _), (_, receiver)) = (open(&to).expect("a pipe"), open(&from).expect("a pipe"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<\"$SHOAL_TO\" 4>\"$SHOAL_FROM\""]);
        command.arg(place::program("chromium", "chromium"));
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-extensions", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
        command.arg("--remote-debugging-pipe");
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        command.arg("about:blank").env("SHOAL_TO", &to).env("SHOAL_FROM", &from).env("HOME", folder.path());
        let process = Process::spawn("chromium", &mut command, &folder.path().join("log"))
            .unwrap_or_else(|error| panic!("{error}"));
        let (requests, outgoing) = mpsc::unbounded_channel();
        let pipes = Arc::new(Pipes { requests, state: Mutex::default() });
        tokio::spawn(write(sender, outgoing));
        tokio::spawn(read(receiver, Arc::clone(&pipes)));
        Browser { pipes, _process: process, _folder: folder }
    }

    /// Opens a page.
    pub async fn open(&self, url: &str, view: View) -> Tab {
        let target = self.pipes.ask(None, "Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.pipes.ask(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().expect("a session has a name").to_owned();
        let tab = Tab { pipes: Arc::clone(&self.pipes), session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.ask(&format!("{domain}.enable"), json!({})).await;
        }
        // Time for which the page waits for a core says nothing of the page.
        tab.ask("Performance.enable", json!({ "timeDomain": "threadTicks" })).await;
        tab.look(view).await;
        tab.ask("Page.navigate", json!({ "url": url })).await;
        tab
    }
}

/// An open page.
pub struct Tab {
    pipes: Arc<Pipes>,
    session: String,
}

impl Tab {
    /// Changes window and colours.
    pub async fn look(&self, view: View) {
        let size = json!({ "width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": view.width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": view.scheme }] });
        self.ask("Emulation.setEmulatedMedia", scheme).await;
    }

    /// The value of an expression on the page.
    pub async fn eval(&self, expression: &str) -> Value {
        let question = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.ask("Runtime.evaluate", question).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true; shows what the page says if it does not become so.
    pub async fn until(&self, expression: &str, within: Duration) {
        let start = std::time::Instant::now();
        loop {
            // While a page is being loaded there may be nothing to ask.
            let question = json!({ "expression": expression, "returnByValue": true });
            let answer = self.ask("Runtime.evaluate", question).await;
            if answer["result"]["value"] == Value::Bool(true) {
                return;
            }
            if start.elapsed() >= within {
                let text = self.eval("document.body.innerText").await;
                panic!(
                    "waited {within:?} in vain for {expression}: {answer}\n{text}\n{:#?}",
                    self.complaints()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses a key.
    pub async fn key(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.ask("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "code": key })).await;
        }
    }

    /// A picture of the whole page, as a PNG file.
    pub async fn screenshot(&self, path: &Path) {
        let question = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.ask("Page.captureScreenshot", question).await;
        let data = answer["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("it is base64");
        std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A figure of the browser's own bookkeeping, such as `TaskDuration` in seconds of a core.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.ask("Performance.getMetrics", json!({})).await;
        let metrics = answer["metrics"].as_array().expect("a list");
        let metric = metrics.iter().find(|metric| metric["name"] == name);
        metric.and_then(|metric| metric["value"].as_f64()).unwrap_or_else(|| panic!("no {name}: {answer}"))
    }

    /// What scripts and the browser have complained of: exceptions, refused loads, errors.
    pub fn complaints(&self) -> Vec<String> {
        let is_one = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            _ => false,
        };
        self.events().iter().filter(is_one).map(ToString::to_string).collect()
    }

    /// Everything that the page has loaded.
    pub fn requests(&self) -> Vec<String> {
        let url = |event: &Value| {
            let sent = event["method"] == "Network.requestWillBeSent";
            sent.then(|| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
        };
        self.events().iter().filter_map(url).collect()
    }

    fn events(&self) -> Vec<Value> {
        let state = self.pipes.state.lock().expect("nobody panics with it");
        state.events.iter().filter(|event| event["sessionId"] == *self.session).cloned().collect()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        self.pipes.ask(Some(&self.session), method, params).await
    }
}

impl Pipes {
    async fn ask(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let (tell, told) = oneshot::channel();
        let id = {
            let mut state = self.state.lock().expect("nobody panics with it");
            state.last_id += 1;
            let id = state.last_id;
            state.waiting.insert(id, tell);
            id
        };
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.requests.send(bytes).expect("the browser is there");
        let answer = tokio::time::timeout(ANSWER_MAX, told).await;
        let mut answer =
            answer.unwrap_or_else(|_| panic!("the browser does not answer {method}")).expect("one answer");
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    fn hear(&self, message: Value) {
        let mut state = self.state.lock().expect("nobody panics with it");
        match message["id"].as_u64() {
            Some(id) => {
                if let Some(tell) = state.waiting.remove(&id) {
                    let _ = tell.send(message);
                }
            }
            // What comes with every event of the page says nothing that a test asks for.
            None if message["method"] == "Network.dataReceived" => {}
            None if message["method"] == "Network.eventSourceMessageReceived" => {}
            None => state.events.push(message),
        }
    }
}

async fn write(mut pipe: pipe::Sender, mut requests: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(request) = requests.recv().await {
        if pipe.write_all(&request).await.is_err() {
            return;
        }
    }
}

async fn read(pipe: pipe::Receiver, pipes: Arc<Pipes>) {
    let mut pipe = BufReader::new(pipe);
    let mut message = Vec::new();
    while pipe.read_until(0, &mut message).await.is_ok_and(|read| read > 0) {
        message.pop();
        if let Ok(message) = serde_json::from_slice(&message) {
            pipes.hear(message);
        }
        message.clear();
    }
}

/// Longest time for a page to show what has happened, on two busy cores.
pub const SHOWN_MAX: Duration = wait::START_MAX;
