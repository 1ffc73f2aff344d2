//! What connections cost: starts nodes in one process, connects each with each, and prints memory and processor time.
//!
//! `cargo run --release -p shoal-net --example mesh -- 100`

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_net::{Admission, Class, Identity, Net, NetConfig, NetEvent, NetLimits, Secret};

#[tokio::main]
async fn main() {
    let count: usize = std::env::args().nth(1).map_or(100, |text| text.parse().expect("how many nodes"));
    let secret = || Secret::new(b"the secret of this measurement").expect("long enough");
    let mut nodes = Vec::new();
    for _ in 0..count {
        let identity = Identity::ephemeral().expect("a key");
        let peer = identity.peer();
        let config = NetConfig {
            identity,
            admission: Arc::new(Admission::new(secret(), None)),
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            mdns: false,
            limits: NetLimits { handshake_timeout: Duration::from_secs(60), ..NetLimits::default() },
        };
        let (handle, events) = Net::start(config).await.expect("started");
        nodes.push((peer, handle, events));
    }
    let places: Vec<_> = nodes.iter().map(|(peer, handle, _)| (*peer, handle.listening()[0])).collect();
    let (memory, processor, start) = (resident_bytes(), processor_time(), Instant::now());
    for (number, (_, handle, _)) in nodes.iter().enumerate() {
        for (peer, address) in &places[number + 1..] {
            handle.send(*peer, &[*address], Class::Ordered, vec![1; 100]).expect("taken");
        }
    }
    let mut lost = 0;
    let tasks: Vec<_> = nodes
        .into_iter()
        .map(|(_, handle, mut events)| {
            tokio::spawn(async move {
                let (mut met, mut lost) = (0, 0);
                while met + lost < count - 1 {
                    match events.recv().await {
                        Some(NetEvent::Met { .. }) => met += 1,
                        Some(NetEvent::Lost { why, .. }) => {
                            println!("lost: {why}");
                            lost += 1;
                        }
                        _ => {}
                    }
                }
                (handle, events, lost)
            })
        })
        .collect();
    let mut nodes = Vec::new();
    for task in tasks {
        let (handle, events, losses) = task.await.expect("a node");
        lost += losses;
        nodes.push((handle, events));
    }
    let connections = count * (count - 1) / 2;
    let (took, used) = (start.elapsed(), processor_time() - processor);
    println!("{count} nodes, {connections} connections, {lost} lost, in {:.1} s", took.as_secs_f64());
    println!(
        "processor: {:.0} µs for each connection, both ends",
        used.as_secs_f64() * 1e6 / connections as f64
    );
    tokio::time::sleep(Duration::from_secs(20)).await;
    let each = (resident_bytes() - memory) / (2 * connections) as u64;
    println!("memory: {:.1} KiB for each end of an idle connection", each as f64 / 1024.0);
    let mut late = 0;
    for (_, events) in &mut nodes {
        while let Ok(event) = events.try_recv() {
            late += usize::from(matches!(event, NetEvent::Lost { .. }));
        }
    }
    println!("idle for 20 s: {late} lost");
    let processor = processor_time();
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("idle: {:.2} ms of processor in 10 s", (processor_time() - processor).as_secs_f64() * 1e3);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().expect("positive"), time.tv_nsec.try_into().expect("positive"))
}
