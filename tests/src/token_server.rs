//! A token server for a real registry: accounts with rights, tokens as signed JWTs that expire (the specification of
//! distribution's token authentication), and a count of whom it has seen a password of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::place;

/// The name that the registry has for itself.
pub const SERVICE: &str = "registry of a test";
/// The name of this server in its tokens.
pub const ISSUER: &str = "token server of a test";
/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Somebody with a password: what may be pulled, and pushed.
struct Account {
    password: String,
    repositories: Vec<String>,
}

struct Shared {
    accounts: BTreeMap<String, Account>,
    lifetime: Duration,
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    /// Users whose right password was shown, in order; and `(refused)`.
    seen: Mutex<Vec<String>>,
}

/// A running token server.
pub struct TokenServer {
    address: SocketAddr,
    pem: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl TokenServer {
    /// Users with their passwords and the repositories that they may use.
    pub async fn start(accounts: &[(&str, &str, &[&str])], lifetime: Duration) -> Self {
        let pair = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec![ISSUER.replace(' ', "-")]).expect("a valid name");
        let certificate = params.self_signed(&pair).expect("parameters are valid");
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &random)
            .expect("the key is of this kind");
        let account = |(user, password, repositories): &(&str, &str, &[&str])| {
            let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
            ((*user).to_owned(), Account { password: (*password).to_owned(), repositories })
        };
        let shared = Arc::new(Shared {
            accounts: accounts.iter().map(account).collect(),
            lifetime,
            key,
            certificate: certificate.der().to_vec(),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind(SocketAddr::from((place::loopback(), 5443)))
            .await
            .expect("the address is ours");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        TokenServer { address, pem: certificate.pem(), shared, task }
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that challenges name.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Writes the certificate that a registry has to trust.
    pub fn write_certificate(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("the folder is ours");
    }

    /// Users who have shown the right password, and `(refused)` for others, in order.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().expect("nobody panics with it").clone()
    }

    /// A token for an account of this server.
    pub fn token(&self, user: &str, scope: &str) -> String {
        self.shared.token(user, &self.shared.accounts[user], scope)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that leaves early has its answer.
            let _ = answer(stream, &shared).await;
        });
    }
}

/// One request for each connection.
async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut request = Vec::new();
    let (head, body) = loop {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    let (status, body) = shared.judge(&head, &body);
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A parameter of a query or a form.
fn parameter(text: &str, name: &str) -> Option<String> {
    let value = text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " "))
}

impl Shared {
    fn judge(&self, head: &str, body: &str) -> (u16, String) {
        let target = head.split_whitespace().nth(1).unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let basic = field(head, "authorization").and_then(|value| value.strip_prefix("Basic "));
        let basic = basic.and_then(|pair| STANDARD.decode(pair).ok());
        let basic = basic.and_then(|pair| String::from_utf8(pair).ok());
        let shown = match &basic {
            Some(pair) => pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned())),
            None => parameter(body, "username").zip(parameter(body, "password")),
        };
        let account = shown.as_ref().and_then(|(user, password)| {
            self.accounts.get(user).filter(|account| account.password == *password).map(|found| (user, found))
        });
        let mut seen = self.seen.lock().expect("nobody panics with it");
        let Some((user, account)) = account else {
            seen.push("(refused)".to_owned());
            return (401, json!({"details": "incorrect username or password"}).to_string());
        };
        seen.push(user.clone());
        let scope = parameter(query, "scope").or_else(|| parameter(body, "scope")).unwrap_or_default();
        let token = self.token(user, account, &scope);
        let expires_in = self.lifetime.as_secs();
        (200, json!({"token": token, "access_token": token, "expires_in": expires_in}).to_string())
    }

    fn token(&self, user: &str, account: &Account, scope: &str) -> String {
        let granted = scope.split(' ').filter_map(|one| {
            let mut parts = one.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            account.repositories.iter().any(|own| own == name).then(
                || json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}),
            )
        });
        let granted: Vec<_> = granted.collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header =
            json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)]}).to_string();
        let number = self.seen.try_lock().map_or(0, |seen| seen.len());
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 10,
            "exp": now + self.lifetime.as_secs(), "jti": format!("{user}-{number}"), "access": granted,
        });
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("the key signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
