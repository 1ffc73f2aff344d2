//! The lists under the curves: members, rollouts, blobs.
//!
//! Question: which rows are shown where not all fit? Answer: of each list that has something a few, then members that are
//! slow or fail before everything else; how many are left out is said in the list's heading. What is over is not shown.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::widgets::{Block, Borders, Row, Table};

use crate::cli::output::{bytes, member_name, percent};
use crate::driver::FlightStatus;
use crate::warm::Phase;
use crate::watch::{BlobView, Followed, MemberShown, RolloutView};

/// Lists, in their order on the screen.
const LISTS: usize = 4;
/// Lines of a list beside its rows: the heading, and the names of the columns.
const BESIDE: usize = 2;
/// Rows that each list has before any has more.
const ROWS_FIRST: [usize; LISTS] = [3, 1, 1, 1];
/// Rows that members take before the other lists get what they want.
const MEMBERS_BEFORE_OTHERS: usize = 6;
/// Rows of the other lists.
const ROLLOUTS_MAX: usize = 4;
const BLOBS_MAX: usize = 8;
/// How long a rollout is shown after it has ended, milliseconds.
const ENDED_MS: u64 = 20_000;
/// Cells of a bar.
const BAR: usize = 10;
/// Widths of columns whose cells are not longer.
const DIGEST: u16 = 19;
const SIZE: u16 = 8;
/// Longest zone and address that are shown in full.
const WORD_MAX: usize = 24;

/// What there is to list.
pub(super) struct Sections<'s> {
    members: Vec<&'s MemberShown>,
    rollouts: Vec<&'s RolloutView>,
    blobs: Vec<&'s BlobView>,
    flights: &'s [FlightStatus],
    /// Whether a book is known that says who has and receives a blob.
    has_books: bool,
    plain: bool,
}

impl<'s> Sections<'s> {
    /// Of what is followed, what goes on. `plain` is for where there are no pictures.
    pub fn new(shown: &'s Followed, now_ms: u64, plain: bool) -> Self {
        let ended = |rollout: &RolloutView| rollout.started_at * 1000 + rollout.elapsed_ms;
        let goes_on = |rollout: &&RolloutView| {
            rollout.phase == Phase::Warming || now_ms.saturating_sub(ended(rollout)) < ENDED_MS
        };
        let mut rollouts: Vec<_> = shown.rollouts.iter().filter(goes_on).collect();
        rollouts
            .sort_by_key(|rollout| (rollout.phase != Phase::Warming, std::cmp::Reverse(rollout.started_at)));
        let moves = |blob: &&BlobView| blob.receivers > 0 || blob.fetchers > 0;
        Sections {
            members: sorted(shown),
            rollouts,
            blobs: shown.blobs.iter().filter(moves).collect(),
            flights: &shown.flights,
            has_books: !shown.blobs.is_empty(),
            plain,
        }
    }

    /// Draws the lists; says how many members fit.
    pub fn draw(&self, frame: &mut Frame<'_>, area: Rect, first: usize) -> usize {
        let wanted = [
            self.members.len(),
            self.rollouts.len().min(ROLLOUTS_MAX),
            self.blobs.len().min(BLOBS_MAX),
            self.flights.len().min(BLOBS_MAX),
        ];
        let rows = share(usize::from(area.height), wanted);
        let line = |rows: usize| {
            let lines = if rows == 0 { 0 } else { rows + BESIDE };
            Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX))
        };
        let areas: [Rect; LISTS] = Layout::vertical(rows.map(line)).areas(area);
        let [members, rollouts, blobs, flights] = areas;
        let first = first.min(self.members.len().saturating_sub(rows[0].max(1)));
        frame.render_widget(self.member_table(members.width, first, rows[0]), members);
        frame.render_widget(self.rollout_table(rows[1]), rollouts);
        frame.render_widget(self.blob_table(blobs.width, rows[2]), blobs);
        frame.render_widget(self.flight_table(flights.width, rows[3]), flights);
        rows[0]
    }

    fn member_table(&self, width: u16, first: usize, rows: usize) -> Table<'static> {
        let longest = |of: fn(&MemberShown) -> usize| {
            let longest = self.members.iter().map(|member| of(member)).max().unwrap_or(0);
            u16::try_from(longest.min(WORD_MAX)).unwrap_or(u16::MAX)
        };
        let (address, zone, version) = (
            longest(|member| member.address.len()).max(7),
            longest(|member| member.zone.len()).max(4),
            longest(|member| member.version.len()).max(7),
        );
        let said = longest(|member| remark(member).len());
        // What everybody knows goes first where it is narrow.
        let needed = 12 + 1 + address + 1 + 3 + 1 + 8 + 1 + said;
        let has_zone = needed + 1 + zone <= width;
        let has_version = needed + 1 + zone + 1 + version <= width;
        let cells = |member: &&&MemberShown| {
            let mut cells = vec![member_name(&member.name), member.address.clone()];
            if has_zone {
                cells.push(if member.zone.is_empty() { "-".into() } else { member.zone.clone() });
            }
            let known = |count: u16| if self.has_books { count.to_string() } else { "-".to_owned() };
            cells.extend([known(member.standing.0), known(member.standing.1)]);
            if has_version {
                cells.push(member.version.clone());
            }
            cells.push(remark(member).to_owned());
            let row = Row::new(cells);
            if is_calm(member) { row } else { row.yellow() }
        };
        let mut columns = vec![("MEMBER", 12), ("ADDRESS", address)];
        columns.extend(has_zone.then_some(("ZONE", zone)));
        columns.extend([("HAS", 3), ("RECEIVES", 8)]);
        columns.extend(has_version.then_some(("VERSION", version)));
        columns.push(("", said.max(1)));
        let title = title("members", first, rows, self.members.len());
        let rows = self.members.iter().skip(first).take(rows).map(|member| cells(&member));
        table(title, &columns, rows.collect())
    }

    fn rollout_table(&self, rows: usize) -> Table<'static> {
        let cells = |rollout: &&&RolloutView| {
            let failed = if rollout.failed > 0 { format!(", {} not", rollout.failed) } else { String::new() };
            Row::new([
                bar(rollout.bytes, rollout.bytes_of, self.plain),
                percent(rollout.bytes, rollout.bytes_of),
                format!("{}/{}{failed}", rollout.ready, rollout.nodes),
                rollout.outcome.word().to_owned(),
                images(rollout),
            ])
        };
        let ready = self.rollouts.iter().map(|rollout| {
            let failed = if rollout.failed > 0 { format!(", {} not", rollout.failed).len() } else { 0 };
            format!("{}/{}", rollout.ready, rollout.nodes).len() + failed
        });
        let ready = u16::try_from(ready.max().unwrap_or(0).max(5)).unwrap_or(u16::MAX);
        let columns = [("PROGRESS", BAR as u16), ("", 5), ("READY", ready), ("STATE", 9), ("IMAGES", 0)];
        let title = title("rollouts", 0, rows, self.rollouts.len());
        table(title, &columns, self.rollouts.iter().take(rows).map(|rollout| cells(&rollout)).collect())
    }

    fn blob_table(&self, width: u16, rows: usize) -> Table<'static> {
        let columns = [
            ("BLOB", DIGEST),
            ("REPOSITORY", 0),
            ("SIZE", SIZE),
            ("HAVE", 5),
            ("RECEIVE", 7),
            ("SLOW", 4),
            ("UPSTREAM", 8),
        ];
        let room = room(width, &columns);
        let cells = |blob: &&BlobView| {
            Row::new([
                blob.digest.short(),
                ending(blob.repository.as_deref().unwrap_or("-"), room),
                bytes(blob.size),
                blob.holders.to_string(),
                blob.receivers.to_string(),
                blob.slow.to_string(),
                blob.fetchers.to_string(),
            ])
        };
        let title = title("moving between members", 0, rows, self.blobs.len());
        table(title, &columns, self.blobs.iter().take(rows).map(cells).collect())
    }

    fn flight_table(&self, width: u16, rows: usize) -> Table<'static> {
        let columns = [
            ("BLOB", DIGEST),
            ("REPOSITORY", 0),
            ("SIZE", SIZE),
            ("RECEIVED", 8),
            ("CLIENTS", 7),
            ("PHASE", 9),
        ];
        let room = room(width, &columns);
        let cells = |flight: &FlightStatus| {
            Row::new([
                flight.digest.short(),
                ending(flight.repository.as_deref().unwrap_or("-"), room),
                flight.size.map_or_else(|| "?".into(), bytes),
                flight.size.map_or_else(|| bytes(flight.received), |size| percent(flight.received, size)),
                flight.clients.to_string(),
                flight.phase.clone(),
            ])
        };
        let title = title("received by this node", 0, rows, self.flights.len());
        table(title, &columns, self.flights.iter().take(rows).map(cells).collect())
    }
}

/// Those first of whom there is something to say.
fn sorted(shown: &Followed) -> Vec<&MemberShown> {
    let mut members: Vec<_> = shown.members.values().collect();
    members.sort_by_cached_key(|member| {
        let standing = member.standing;
        (is_calm(member), standing.1 == 0, !standing.is_self(), member.zone.clone(), member.name.clone())
    });
    members
}

fn is_calm(member: &MemberShown) -> bool {
    let standing = member.standing;
    !(standing.has_failed() || standing.is_slow() || standing.is_away())
}

fn remark(member: &MemberShown) -> &'static str {
    match member.standing {
        standing if standing.has_failed() => "not getting ready",
        standing if standing.is_away() => "away, waited for",
        standing if standing.is_slow() => "slow",
        standing if standing.is_self() => "this node",
        _ => "",
    }
}

/// How many rows each list gets of so many lines, given how many it wants.
fn share(lines: usize, wanted: [usize; LISTS]) -> [usize; LISTS] {
    let mut rows = [0; LISTS];
    let mut left = lines;
    let mut grant = |rows: &mut usize, upto: usize| {
        while *rows < upto {
            let cost = if *rows == 0 { 1 + BESIDE } else { 1 };
            if cost > left {
                return;
            }
            left -= cost;
            *rows += 1;
        }
    };
    for list in 0..LISTS {
        grant(&mut rows[list], wanted[list].min(ROWS_FIRST[list]));
    }
    grant(&mut rows[0], wanted[0].min(MEMBERS_BEFORE_OTHERS));
    for list in (1..LISTS).chain([0]) {
        grant(&mut rows[list], wanted[list]);
    }
    rows
}

fn title(name: &str, first: usize, rows: usize, all: usize) -> String {
    match all.saturating_sub(rows) {
        0 => format!("{name} "),
        _ if first > 0 => format!("{name}, {} to {} of {all} ", first + 1, first + rows),
        more => format!("{name}, +{more} more "),
    }
}

fn bar(part: u64, whole: u64, plain: bool) -> String {
    let full =
        if whole == 0 { 0 } else { (u128::from(part.min(whole)) * BAR as u128 / u128::from(whole)) as usize };
    let (done, left) = if plain { ("#", ".") } else { ("\u{2588}", "\u{2591}") };
    done.repeat(full) + &left.repeat(BAR - full)
}

fn images(rollout: &RolloutView) -> String {
    let image = rollout.images.first().cloned().unwrap_or_default();
    match rollout.image_count.saturating_sub(1) {
        0 => image,
        more => format!("{image} and {more} more"),
    }
}

/// What a column of width 0 gets.
fn room(width: u16, columns: &[(&str, u16)]) -> usize {
    let others: u16 = columns.iter().map(|(_, width)| width).sum();
    let gaps = u16::try_from(columns.len()).unwrap_or(u16::MAX).saturating_sub(1);
    usize::from(width.saturating_sub(others).saturating_sub(gaps))
}

/// A repository in so many characters: its end says more than its registry.
fn ending(repository: &str, room: usize) -> String {
    let length = repository.chars().count();
    if length <= room || room == 0 {
        return repository.to_owned();
    }
    let end: String = repository.chars().skip(length - room + 1).collect();
    format!("\u{2026}{end}")
}

/// A column of width 0 takes what is left.
fn table(title: String, columns: &[(&'static str, u16)], rows: Vec<Row<'static>>) -> Table<'static> {
    let width = |(_, width): &(&str, u16)| match width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(*width),
    };
    let head =
        Row::new(columns.iter().map(|(name, _)| *name)).style(Style::new().add_modifier(Modifier::DIM));
    let block = Block::new().borders(Borders::TOP).title(title).border_style(Style::new().dim());
    Table::new(rows, columns.iter().map(width)).header(head).block(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared() {
        let table = [
            // lines, wanted, got
            (17, [5, 3, 5, 1], [5, 2, 1, 1]),
            (17, [5, 0, 0, 0], [5, 0, 0, 0]),
            (17, [1000, 1, 0, 0], [12, 1, 0, 0]),
            (17, [1000, 4, 8, 8], [6, 1, 1, 1]),
            (40, [1000, 4, 8, 8], [12, 4, 8, 8]),
            (5, [5, 1, 1, 1], [3, 0, 0, 0]),
            (6, [1, 1, 1, 1], [1, 1, 0, 0]),
            (2, [5, 1, 1, 1], [0, 0, 0, 0]),
        ];
        for (lines, wanted, expected) in table {
            let rows = share(lines, wanted);
            assert_eq!(rows, expected, "{lines} {wanted:?}");
            let taken: usize = rows.iter().filter(|rows| **rows > 0).map(|rows| rows + BESIDE).sum();
            assert!(taken <= lines);
        }
    }

    #[test]
    fn the_end_of_a_repository_stays() {
        assert_eq!(ending("127.0.77.100:5000/team/app", 12), "\u{2026}00/team/app");
        assert_eq!([ending("redis", 5), ending("redis", 0)], ["redis", "redis"]);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        assert_eq!(title("members", 0, 3, 5), "members, +2 more ");
        assert_eq!(title("members", 2, 3, 9), "members, 3 to 5 of 9 ");
        assert_eq!([bar(1, 2, true), bar(0, 0, true)], ["#####.....", ".........."]);
    }
}
