//! What `shoal top` shows, drawn to whatever size there is: who is slow first, and nothing that is over.

mod sections;

use std::fmt::Display;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};

use crate::cli::output::{bytes, count, member_name, percent, seconds};
use crate::cli::status::listed;
use crate::store_health::Reason;
use crate::watch::{Event, Followed, MemberShown, Traffic};

use sections::Sections;

/// Time over which a rate is taken, milliseconds.
const RATE_OVER_MS: u64 = 5_000;
/// Width of a column of the curves, milliseconds.
const COLUMN_MS: u64 = 2_000;
/// Lines of the curves, and where there are few lines in all.
const CURVES: u16 = 5;
const CURVES_LOW: u16 = 4;
/// From so many lines on there are enough for all.
const LINES_ENOUGH: u16 = 30;
/// Width of a curve from which on the sum fits beside the rate.
const CURVE_WIDE: u16 = 26;
/// Lines of what is printed once; blank ones at the end are left out.
const TEXT_LINES: u16 = 100;

/// How it is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Look {
    /// For eyes: curves and colours.
    #[default]
    Terminal,
    /// For logs and mails: words alone.
    Text,
}

/// What is shown, and how.
#[derive(Default)]
pub(super) struct Screen {
    shown: Followed,
    /// What has come while the picture was held.
    held: Option<Followed>,
    /// When the last event came: an agent where nothing changes says nothing.
    heard: Option<Instant>,
    /// Why the agent cannot be reached.
    lost: Option<String>,
    look: Look,
    first_member: usize,
    /// Members that fit, when it was last drawn.
    members_fit: usize,
}

impl Screen {
    pub fn take(&mut self, event: Event) {
        self.lost = None;
        self.heard = Some(Instant::now());
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

    /// Moves the members; the last page stays full.
    pub fn scroll(&mut self, by: i32) {
        let last = self.shown.members.len().saturating_sub(self.members_fit.max(1));
        let moved = i64::try_from(self.first_member).unwrap_or(0) + i64::from(by);
        self.first_member = usize::try_from(moved.max(0)).unwrap_or(0).min(last);
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let curves = match self.look {
            Look::Text => CURVES_LOW + 1,
            Look::Terminal if area.height < LINES_ENOUGH => CURVES_LOW,
            Look::Terminal => CURVES,
        };
        let areas: [Rect; 4] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(curves),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(area);
        let [head, flow, middle, foot] = areas;
        frame.render_widget(Paragraph::new(heading(&self.shown)), head);
        match self.look {
            Look::Terminal => draw_curves(frame, flow, &self.shown),
            Look::Text => frame.render_widget(Paragraph::new(flows(&self.shown)), flow),
        }
        let sections = Sections::new(&self.shown, self.now_ms(), self.look == Look::Text);
        self.members_fit = sections.draw(frame, middle, self.first_member);
        frame.render_widget(Paragraph::new(self.footing()), foot);
    }

    /// The agent's time, Unix milliseconds.
    fn now_ms(&self) -> u64 {
        let since = match (self.look, &self.held) {
            (Look::Terminal, None) => self.heard.map_or(Duration::ZERO, |heard| heard.elapsed()),
            _ => Duration::ZERO,
        };
        self.shown.at_ms + since.as_millis() as u64
    }

    fn footing(&self) -> Line<'static> {
        match (&self.lost, &self.held) {
            (Some(why), _) => Line::from(format!("{why}; trying again").red()),
            (None, Some(_)) => Line::from("held; space goes on".yellow()),
            (None, None) => Line::from("q ends  space holds  arrows move through the members".dim()),
        }
    }
}

/// The same, as text of so many columns.
pub(super) fn text(followed: &Followed, width: u16) -> String {
    let mut screen = Screen { shown: followed.clone(), look: Look::Text, ..Screen::default() };
    let backend = ratatui::backend::TestBackend::new(width, TEXT_LINES);
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
    let away = standing(|member| member.standing.is_away());
    let mut first = vec![
        Span::from("shoal ").bold(),
        Span::from(format!("{} on {name}, up {age}   ", node.version)),
        Span::from(count(shown.members.len() as u64, "member")),
    ];
    for (count, what) in [(slow, "slow"), (failed, "not getting ready"), (away, "away")] {
        if count > 0 {
            first.push(Span::from(format!(", {count} {what}")).yellow());
        }
    }
    let mut second = vec![Span::from(format!(
        "store: {} in {}   receiving {}, {} waiting",
        bytes(node.bytes),
        count(node.blobs, "blob"),
        count(node.flights as u64, "blob"),
        count(node.waiting, "request")
    ))];
    if node.degraded {
        let what = match node.store_trouble {
            Some(Reason::Capacity | Reason::DiskFull) => "   THE STORE IS FULL: shoal status",
            _ => "   THE STORE CANNOT BE USED: shoal status",
        };
        second.push(Span::from(what).red().bold());
    }
    if !node.unwell.is_empty() {
        let mut unwell = node.unwell.clone();
        unwell.dedup();
        second.push(Span::from(format!("   left alone: {}", listed(&unwell))).yellow());
    }
    vec![Line::from(first), Line::from(second)]
}

fn upstream(traffic: &Traffic) -> u64 {
    traffic.registries + traffic.mirrors
}

/// Bytes that clients got and that did not come over the link to registries and mirrors.
fn saved(traffic: &Traffic) -> u64 {
    traffic.served.saturating_sub(upstream(traffic))
}

type Source = (&'static str, fn(&Traffic) -> u64);

/// What flows between this node and others.
const SOURCES: [Source; 4] = [
    ("from upstream", upstream),
    ("from members", |traffic| traffic.members),
    ("to members", |traffic| traffic.given),
    ("to clients", |traffic| traffic.served),
];

/// The rate of something, and its sum.
fn flow(shown: &Followed, of: fn(&Traffic) -> u64) -> (String, String) {
    (format!("{}/s", bytes(shown.rate(of, RATE_OVER_MS))), bytes(of(&shown.traffic)))
}

fn saved_percent(shown: &Followed) -> String {
    percent(saved(&shown.traffic), shown.traffic.served)
}

fn flows(shown: &Followed) -> Vec<Line<'static>> {
    let line = |(name, of): (&'static str, fn(&Traffic) -> u64)| {
        let (rate, sum) = flow(shown, of);
        let saved =
            if name == "to clients" { format!(", {} saved", saved_percent(shown)) } else { String::new() };
        Line::from(format!("{name:<14} {rate:>12}, {sum} in all{saved}"))
    };
    SOURCES.into_iter().map(line).collect()
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, shown: &Followed) {
    let areas: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4]).spacing(1).areas(area);
    for ((name, of), area) in SOURCES.into_iter().zip(areas) {
        let (rate, sum) = flow(shown, of);
        let below = match (name, area.width >= CURVE_WIDE) {
            (_, false) => format!("{rate} "),
            ("to clients", true) => format!("{rate}, {} saved ", saved_percent(shown)),
            (_, true) => format!("{rate}, {sum} in all "),
        };
        let rates = shown.rates(of, COLUMN_MS, usize::from(area.width.saturating_sub(1)));
        let block = Block::new().borders(Borders::TOP | Borders::BOTTOM).border_style(Style::new().dim());
        let block = block.title(format!("{name} ")).title_bottom(Line::from(below).dim());
        frame.render_widget(Sparkline::default().block(block).data(&rates), area);
    }
}
