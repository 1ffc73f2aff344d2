//! What `shoal top` shows, drawn to whatever size there is.

use std::fmt::Display;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Row, Sparkline, Table};

use crate::cli::output::{bytes, member_name, percent, seconds};
use crate::warm::Phase;
use crate::watch::{BlobView, Event, Followed, MemberShown, RolloutView, Traffic};

/// Time over which a rate is taken, milliseconds.
const RATE_OVER_MS: u64 = 5_000;
/// Width of a column of the curves, milliseconds.
const COLUMN_MS: u64 = 2_000;
/// Lines of rollouts, and of blobs in each of their lists.
const ROLLOUTS_MAX: usize = 4;
const BLOBS_MAX: usize = 8;
/// Size of what is printed where there is no terminal.
const TEXT_SIZE: (u16, u16) = (110, 40);

/// What is shown, and how.
#[derive(Default)]
pub(super) struct Screen {
    shown: Followed,
    /// What has come while the picture was held.
    held: Option<Followed>,
    /// Why the agent cannot be reached.
    lost: Option<String>,
    first_member: usize,
}

impl Screen {
    pub fn take(&mut self, event: Event) {
        self.lost = None;
        self.held.as_mut().unwrap_or(&mut self.shown).take(event);
    }

    pub fn lose(&mut self, why: &impl Display) {
        self.lost = Some(why.to_string());
    }

    /// Holds the picture, or lets it go on.
    pub fn hold(&mut self) {
        match self.held.take() {
            Some(now) => self.shown = now,
            None => self.held = Some(self.shown.clone()),
        }
    }

    pub fn scroll(&mut self, by: i32) {
        let last = self.shown.members.len().saturating_sub(1);
        let moved = i64::try_from(self.first_member).unwrap_or(0) + i64::from(by);
        self.first_member = usize::try_from(moved.max(0)).unwrap_or(0).min(last);
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let shown = &self.shown;
        let rollouts = shown.rollouts.len().min(ROLLOUTS_MAX);
        let blobs = shown.blobs.len().clamp(1, BLOBS_MAX) + 2;
        let flights = shown.flights.len().clamp(1, BLOBS_MAX) + 2;
        let line = |count: usize| Constraint::Length(u16::try_from(count).unwrap_or(u16::MAX));
        let areas: [Rect; 7] = Layout::vertical([
            line(2),
            line(5),
            line(if rollouts == 0 { 0 } else { rollouts + 2 }),
            line(blobs),
            line(flights),
            Constraint::Fill(1),
            line(1),
        ])
        .areas(frame.area());
        let [head, curves, rolling, spreading, receiving, members, foot] = areas;
        frame.render_widget(Paragraph::new(heading(shown)), head);
        draw_curves(frame, curves, shown);
        draw_rollouts(frame, rolling, shown);
        frame.render_widget(blob_table(shown), spreading);
        frame.render_widget(flight_table(shown), receiving);
        frame.render_widget(member_table(shown, self.first_member), members);
        frame.render_widget(Paragraph::new(self.footing()), foot);
    }

    fn footing(&self) -> Line<'static> {
        match (&self.lost, &self.held) {
            (Some(why), _) => Line::from(format!("{why}; trying again").red()),
            (None, Some(_)) => Line::from("held; space goes on".yellow()),
            (None, None) => Line::from("q ends  space holds  arrows move through the members".dim()),
        }
    }
}

/// The same, as text of a fixed size, for pipes.
pub(super) fn text(followed: &Followed) -> String {
    let mut screen = Screen { shown: followed.clone(), ..Screen::default() };
    let (width, height) = TEXT_SIZE;
    let backend = ratatui::backend::TestBackend::new(width, height);
    // Cannot fail: it draws to memory.
    let Ok(mut terminal) = ratatui::Terminal::new(backend);
    let Ok(_) = terminal.draw(|frame| screen.draw(frame));
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width)).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    let lines: Vec<String> = lines.collect();
    // Without the words about keys, and the emptiness above them.
    let end = lines[..lines.len() - 1].iter().rposition(|line| line != "\n").map_or(0, |last| last + 1);
    lines[..end].concat()
}

fn heading(shown: &Followed) -> Vec<Line<'static>> {
    let node = &shown.node;
    let name = if node.name.is_empty() { "works alone".to_owned() } else { member_name(&node.name) };
    let age = seconds((shown.at_ms / 1000).saturating_sub(node.started_at));
    let standing = |is: fn(&MemberShown) -> bool| shown.members.values().filter(|member| is(member)).count();
    let (slow, failed) =
        (standing(|member| member.standing.is_slow()), standing(|member| member.standing.has_failed()));
    let mut first = vec![
        Span::from("shoal ").bold(),
        Span::from(format!("{} on {name}, for {age}   ", node.version)),
        Span::from(format!("{} members", shown.members.len())),
    ];
    for (count, what) in [(slow, "slow"), (failed, "not getting ready")] {
        if count > 0 {
            first.push(Span::from(format!(", {count} {what}")).yellow());
        }
    }
    let mut second = vec![Span::from(format!(
        "store: {} in {} blobs   {} received, {} requests wait",
        bytes(node.bytes),
        node.blobs,
        count(node.flights, "blob is", "blobs are"),
        node.waiting
    ))];
    if node.degraded {
        second.push(Span::from("   the store cannot be used: pulls go straight upstream").red().bold());
    }
    if !node.unwell.is_empty() {
        second.push(Span::from(format!("   left alone: {}", node.unwell.join(", "))).yellow());
    }
    vec![Line::from(first), Line::from(second)]
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn upstream(traffic: &Traffic) -> u64 {
    traffic.registries + traffic.mirrors
}

/// Bytes that clients got and that did not come over the link to registries and mirrors.
fn saved(traffic: &Traffic) -> u64 {
    traffic.served.saturating_sub(upstream(traffic))
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, shown: &Followed) {
    type Source = (&'static str, fn(&Traffic) -> u64);
    const SOURCES: [Source; 4] = [
        ("from upstream", upstream),
        ("from members", |traffic| traffic.members),
        ("to members", |traffic| traffic.given),
        ("to clients", |traffic| traffic.served),
    ];
    let areas: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4]).areas(area);
    for ((name, of), area) in SOURCES.into_iter().zip(areas) {
        let title = format!("{name} {}/s ", bytes(shown.rate(of, RATE_OVER_MS)));
        let below = if name == "to clients" {
            format!("{} saved ", percent(saved(&shown.traffic), shown.traffic.served))
        } else {
            format!("{} in all ", bytes(of(&shown.traffic)))
        };
        let rates = shown.rates(of, COLUMN_MS, usize::from(area.width.saturating_sub(1)));
        let block = Block::new().borders(Borders::TOP).title(title).title_bottom(Line::from(below).dim());
        let block = block.borders(Borders::TOP | Borders::BOTTOM).border_style(Style::new().dim());
        frame.render_widget(Sparkline::default().block(block).data(&rates), area);
    }
}

fn draw_rollouts(frame: &mut Frame<'_>, area: Rect, shown: &Followed) {
    if area.height == 0 {
        return;
    }
    let block = titled("rollouts");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let lines = Layout::vertical(vec![Constraint::Length(1); ROLLOUTS_MAX]).split(inside);
    for (rollout, area) in shown.rollouts.iter().zip(lines.iter()) {
        frame.render_widget(gauge(rollout), *area);
    }
}

fn gauge(rollout: &RolloutView) -> Gauge<'static> {
    let more = rollout.image_count.saturating_sub(1);
    let image = rollout.images.first().cloned().unwrap_or_default();
    let image = if more > 0 { format!("{image} and {more} more") } else { image };
    let failed = if rollout.failed > 0 { format!(", {} not", rollout.failed) } else { String::new() };
    let phase = match rollout.phase {
        Phase::Warming => "",
        Phase::Done => ", done",
        Phase::Cancelled => ", cancelled",
    };
    let label = format!("{image}: {} of {} nodes ready{failed}{phase}", rollout.ready, rollout.nodes);
    let ratio = if rollout.bytes_of == 0 { 0.0 } else { rollout.bytes as f64 / rollout.bytes_of as f64 };
    Gauge::default().label(label).ratio(ratio.clamp(0.0, 1.0)).use_unicode(true)
}

fn titled(title: &'static str) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(format!("{title} ")).border_style(Style::new().dim())
}

fn head<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(Style::new().add_modifier(Modifier::DIM))
}

fn blob_table(shown: &Followed) -> Table<'static> {
    let row = |blob: &BlobView| {
        Row::new([
            blob.digest.short(),
            blob.repository.clone().unwrap_or_else(|| "-".into()),
            bytes(blob.size),
            blob.holders.to_string(),
            blob.receivers.to_string(),
            blob.slow.to_string(),
            blob.fetchers.to_string(),
        ])
    };
    let widths = [
        Constraint::Length(19),
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(9),
    ];
    let names = ["BLOB", "REPOSITORY", "SIZE", "HAVE", "RECEIVE", "SLOW", "UPSTREAM"];
    Table::new(shown.blobs.iter().take(BLOBS_MAX).map(row), widths)
        .header(head(names))
        .block(titled("spreading over the members (as far as this node keeps their books)"))
}

fn flight_table(shown: &Followed) -> Table<'static> {
    let row = |flight: &crate::driver::FlightStatus| {
        Row::new([
            flight.digest.short(),
            flight.repository.clone().unwrap_or_else(|| "-".into()),
            flight.size.map_or_else(|| "?".into(), bytes),
            flight.size.map_or_else(|| bytes(flight.received), |size| percent(flight.received, size)),
            flight.clients.to_string(),
            flight.phase.clone(),
        ])
    };
    let widths = [
        Constraint::Length(19),
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(14),
    ];
    let names = ["BLOB", "REPOSITORY", "SIZE", "RECEIVED", "CLIENTS", "PHASE"];
    Table::new(shown.flights.iter().take(BLOBS_MAX).map(row), widths)
        .header(head(names))
        .block(titled("received by this node"))
}

/// Those first of whom there is something to say.
fn member_table(shown: &Followed, first: usize) -> Table<'static> {
    let mut members: Vec<_> = shown.members.values().collect();
    let order = |member: &&MemberShown| {
        let standing = member.standing;
        let quiet = !(standing.has_failed() || standing.is_slow());
        (quiet, standing.1 == 0, !standing.is_self(), member.zone.clone(), member.name.clone())
    };
    members.sort_by_cached_key(order);
    let row = |member: &&MemberShown| {
        let standing = member.standing;
        let remark = match standing {
            _ if standing.has_failed() => "not getting ready",
            _ if standing.is_slow() => "slow",
            _ if standing.is_self() => "this node",
            _ => "",
        };
        let row = Row::new([
            member_name(&member.name),
            if member.zone.is_empty() { "-".into() } else { member.zone.clone() },
            member.address.clone(),
            member.version.clone(),
            standing.0.to_string(),
            standing.1.to_string(),
            remark.to_owned(),
        ]);
        if standing.has_failed() || standing.is_slow() { row.yellow() } else { row }
    };
    let widths = [
        Constraint::Length(13),
        Constraint::Length(16),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(18),
    ];
    let names = ["MEMBER", "ZONE", "ADDRESS", "VERSION", "HAS", "RECEIVES", ""];
    Table::new(members.iter().skip(first).map(row), widths).header(head(names)).block(titled("members"))
}
