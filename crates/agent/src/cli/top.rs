//! `shoal top`: the agent and its cluster, live, in a terminal.
//!
//! Invariants: the terminal is left as it was, however the command ends; an agent that goes away is waited for, because a
//! rollout of the agent itself is something to watch, too.

mod screen;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::{Stream, StreamExt as _, stream};
use ratatui::crossterm::event::{self, Event as Typed, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::output::{Output, terminal_width};
use super::{AgentSocket, Failure};
use crate::admin::Events;
use crate::admin::client::{AdminClient, ClientError};
use crate::watch::{Event, Followed};

use screen::Screen;

/// Pause between two attempts to reach an agent that went away.
const AGAIN_EVERY: Duration = Duration::from_secs(1);
/// How often the thread that reads keys looks whether it is still wanted.
const KEYS_LOOK: Duration = Duration::from_millis(200);
/// How often the picture is drawn where nothing happens.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Keys that wait.
const KEYS_MAX: usize = 16;
/// Columns of a single look where there is no terminal, and the least where there is one.
const TEXT_WIDTH: u16 = 110;
const TEXT_WIDTH_MIN: u16 = 40;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal top                                  q ends, space holds it, arrows
                                             move through the members
  shoal top --once                           one look, as text
  shoal top --json | jq .traffic.registries  one JSON object whenever
                                             something changes")]
pub(super) struct TopArgs {
    /// Look once, and print it as text.
    #[arg(long)]
    once: bool,
    /// Print one JSON object now and whenever something changes, one a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentSocket,
}

pub(super) async fn run(args: &TopArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let client = args.agent.client()?;
    let mut events = client.events().await?;
    if args.json {
        json(&mut events, args.once, out).await?;
    } else if args.once || !std::io::stdout().is_terminal() {
        if let Some(event) = events.next().await? {
            let mut followed = Followed::default();
            followed.take(event);
            out.bytes(screen::text(&followed, text_width()).as_bytes())?;
        }
    } else {
        live(&client, events).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As wide as the terminal that it is printed on.
fn text_width() -> u16 {
    let terminal = terminal_width().and_then(|width| u16::try_from(width).ok());
    terminal.map_or(TEXT_WIDTH, |width| width.max(TEXT_WIDTH_MIN))
}

async fn json(events: &mut Events, once: bool, out: &mut Output) -> Result<(), Failure> {
    let mut followed = Followed::default();
    while let Some(event) = events.next().await? {
        followed.take(event);
        let line = serde_json::to_string(&followed).map_err(|error| Failure::Output(error.into()))?;
        out.line(format_args!("{line}"))?;
        if once {
            break;
        }
    }
    Ok(())
}

/// The terminal, until it is dropped.
struct Terminal(ratatui::DefaultTerminal);

impl Terminal {
    fn take() -> Result<Self, Failure> {
        ratatui::try_init()
            .map(Terminal)
            .map_err(|source| Failure::System { operation: "draw on the terminal", source })
    }

    fn draw(&mut self, screen: &mut Screen) -> Result<(), Failure> {
        self.0.draw(|frame| screen.draw(frame)).map(|_| ()).map_err(Failure::Output)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that does not want it.
        let _ = ratatui::try_restore();
    }
}

/// What somebody wants who has pressed a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    End,
    Hold,
    Move(i32),
    Redraw,
}

async fn live(client: &AdminClient, events: Events) -> Result<(), Failure> {
    let mut terminal = Terminal::take()?;
    show(client, events, keys(), |screen| terminal.draw(screen)).await
}

/// Has each picture drawn, until somebody wants no more.
async fn show(
    client: &AdminClient,
    events: Events,
    mut wishes: mpsc::Receiver<Wish>,
    mut draw: impl FnMut(&mut Screen) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut screen = Screen::default();
    // Both outlive a turn: waiting for the agent takes longer than one, and begun anew with each it would never end.
    let mut news = pin!(follow(client, events));
    let mut redraw = interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        draw(&mut screen)?;
        tokio::select! {
            // What is over goes after a while, also where nothing else happens.
            _ = redraw.tick() => {}
            wish = wishes.recv() => match wish {
                None | Some(Wish::End) => return Ok(()),
                Some(Wish::Hold) => screen.hold(),
                Some(Wish::Move(by)) => screen.scroll(by),
                Some(Wish::Redraw) => {}
            },
            Some(event) = news.next() => match event {
                Ok(event) => screen.take(event),
                Err(error) => screen.lose(&error),
            },
        }
    }
}

/// All events from now on, without an end.
fn follow(client: &AdminClient, events: Events) -> impl Stream<Item = Result<Event, ClientError>> {
    stream::unfold(Some(events), move |mut events| async move {
        let event = next(client, &mut events).await;
        Some((event, events))
    })
}

/// The next event; an error each time that the agent cannot be reached, at a bounded rate.
async fn next(client: &AdminClient, events: &mut Option<Events>) -> Result<Event, ClientError> {
    let Some(open) = events else {
        tokio::time::sleep(AGAIN_EVERY).await;
        *events = Some(client.events().await?);
        return Box::pin(next(client, events)).await;
    };
    let event = open.next().await;
    match event {
        Ok(Some(event)) => Ok(event),
        Ok(None) => {
            *events = None;
            Box::pin(next(client, events)).await
        }
        Err(error) => {
            *events = None;
            Err(error)
        }
    }
}

/// Reads keys on a thread of its own: they come by calls that wait.
fn keys() -> mpsc::Receiver<Wish> {
    let (sender, wishes) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let typed = match event::poll(KEYS_LOOK) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let Ok(typed) = typed else { return };
            if let Some(wish) = wish(&typed)
                && sender.blocking_send(wish).is_err()
            {
                return;
            }
        }
    });
    wishes
}

fn wish(typed: &Typed) -> Option<Wish> {
    const PAGE: i32 = 10;
    let key = match typed {
        Typed::Key(key) if key.kind != KeyEventKind::Release => key,
        Typed::Resize(..) => return Some(Wish::Redraw),
        _ => return None,
    };
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
        KeyCode::Char(' ' | 'p') => Some(Wish::Hold),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::Move(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::Move(1)),
        KeyCode::PageUp => Some(Wish::Move(-PAGE)),
        KeyCode::PageDown => Some(Wish::Move(PAGE)),
        KeyCode::Home => Some(Wish::Move(i32::MIN)),
        KeyCode::End => Some(Wish::Move(i32::MAX)),
        _ => None,
    }
}
