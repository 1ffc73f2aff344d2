//! dnsmasq as the DNS server of a network of namespaces: a real one, whose answers a test changes while agents ask.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::netns::{self, Network};
use crate::place;
use crate::process::Process;
use crate::wait;

/// The domain of which it knows every name; there is nobody whom it could ask for others.
pub const DOMAIN: &str = "example.test";

/// Where it listens: resolv.conf cannot name another port.
const PORT: u16 = 53;

/// A running server.
pub struct DnsServer {
    process: Process,
    address: IpAddr,
    names: PathBuf,
}

impl DnsServer {
    /// Starts one in a node's namespace, and waits until it listens. A name has as many addresses as it stands in `names`, a
    /// service as many nodes as it stands in `services`: the host's name, and the port.
    ///
    /// # Errors
    /// Its files cannot be written, or the program cannot be run.
    pub fn start_in(
        network: &Network,
        node: usize,
        folder: &Path,
        names: &[(&str, IpAddr)],
        services: &[(&str, &str, u16)],
    ) -> Result<Self> {
        let address = IpAddr::from(netns::address(node));
        let (config, file) = (folder.join("dnsmasq.conf"), folder.join("dnsmasq.names"));
        std::fs::write(&file, lines(names)).context("cannot write the names")?;
        let mut text = format!(
            "no-resolv\nno-hosts\nno-poll\nport={PORT}\nlisten-address={address}\nbind-interfaces\nlocal=/{DOMAIN}/\naddn-hosts={}\nuser=root\npid-file={}\nkeep-in-foreground\nlog-facility=-\nlog-queries\n",
            file.display(),
            folder.join("dnsmasq.pid").display()
        );
        for (service, host, port) in services {
            writeln!(text, "srv-host={service},{host},{port}").context("cannot write to memory")?;
        }
        std::fs::write(&config, text).context("cannot write the configuration of dnsmasq")?;
        let mut command = network.command(node, &place::program("dnsmasq", "dnsmasq-base"));
        command.arg(format!("--conf-file={}", config.display()));
        let process = Process::spawn("dnsmasq", &mut command, &folder.join("dnsmasq.log"))?;
        let at = SocketAddr::new(address, PORT);
        network.block_on(node, move || async move {
            wait::until("the DNS server to listen", wait::START_MAX, || async {
                tokio::net::TcpStream::connect(at).await.is_ok()
            })
            .await;
        })?;
        Ok(DnsServer { process, address, names: file })
    }

    /// Where it answers.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Has it answer with these names, and no others, from some moment on.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn set(&self, names: &[(&str, IpAddr)]) -> io::Result<()> {
        std::fs::write(&self.names, lines(names))?;
        self.process.signal(libc::SIGHUP);
        Ok(())
    }

    /// How often a node has asked it for records of a kind (`A`, `AAAA`, `SRV`) of a name.
    pub fn asked(&self, kind: &str, name: &str, by: IpAddr) -> usize {
        let end = format!("query[{kind}] {name} from {by}");
        self.process.log().lines().filter(|line| line.ends_with(&end)).count()
    }
}

fn lines(names: &[(&str, IpAddr)]) -> String {
    names.iter().map(|(name, address)| format!("{address} {name}\n")).collect()
}
