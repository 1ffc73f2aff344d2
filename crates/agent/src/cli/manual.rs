//! The manual pages, one for each command: what its help says, and what a reader of manual pages looks for besides: the synopsis with the
//! names of values, examples and exit statuses in sections of their own.

use std::io;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::Failure;

/// Whatever the help says after its options, under no title of its own.
const UNTITLED: &str = "NOTES";

/// Writes the page of a command, and those of its subcommands, to a directory that is made if it is not there.
pub(super) fn write(mut command: Command, directory: &Path) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::Write { path, source }
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    command.build();
    for (name, page) in pages(&command).map_err(failed(directory))? {
        let path = directory.join(name);
        std::fs::write(&path, page).map_err(failed(&path))?;
    }
    Ok(())
}

/// The pages of a command that has been built: their names and their texts.
fn pages(command: &Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        all.extend(pages(subcommand)?);
    }
    let man = Man::new(command.clone())
        .source(format!("shoal {}", env!("CARGO_PKG_VERSION")))
        .manual("Commands of shoal");
    all.push((man.get_filename(), page(&man, command)?));
    Ok(all)
}

fn page(man: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    synopsis(command).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_long_help().or(command.get_after_help());
    sections(&after.map(ToString::to_string).unwrap_or_default()).to_writer(&mut page)?;
    Ok(page)
}

/// How the command is called: with its own arguments, and with those of a subcommand.
fn synopsis(command: &Command) -> Roff {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut roff = Roff::default();
    roff.control("SH", ["SYNOPSIS"]);
    if !command.is_subcommand_required_set() {
        let mut line = vec![bold(name)];
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_everywhere(arg));
        let (positionals, options): (Vec<&Arg>, Vec<&Arg>) = shown.partition(|arg| arg.is_positional());
        for arg in options.into_iter().chain(positionals) {
            line.push(roman(" "));
            line.extend(argument(arg));
        }
        roff.text(line);
    }
    if command.has_subcommands() {
        roff.control("br", []);
        roff.text([bold(name), roman(" "), italic("COMMAND"), roman(" ...")]);
    }
    roff
}

/// Whether every command has it, so that it tells nothing about this one.
fn is_everywhere(arg: &Arg) -> bool {
    arg.is_global_set()
        || matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong)
}

/// `[-f|--file FILE]`
fn argument(arg: &Arg) -> Vec<Inline> {
    let mut parts = Vec::new();
    let names =
        [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    for name in names.into_iter().flatten() {
        if !parts.is_empty() {
            parts.push(roman("|"));
        }
        parts.push(bold(name));
    }
    if arg.get_action().takes_values() {
        if !parts.is_empty() {
            parts.push(roman(" "));
        }
        let values = arg.get_value_names().map(|names| names.join(" "));
        parts.push(italic(values.unwrap_or_else(|| arg.get_id().as_str().to_uppercase())));
    }
    if !arg.is_required_set() {
        parts.insert(0, roman("["));
        parts.push(roman("]"));
    }
    let is_many = matches!(arg.get_action(), ArgAction::Append | ArgAction::Count);
    if is_many || arg.get_num_args().is_some_and(|count| count.max_values() > 1) {
        parts.push(roman("..."));
    }
    parts
}

/// What help says after the options: paragraphs, of which some begin with a title (`Examples:`), laid out as they are.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::default();
    let mut last = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        // `Exit status: 0 pulled; ...` has its text in the same line.
        let titled = ["Examples", "Example", "Exit status"].into_iter().find_map(|title| {
            first.strip_prefix(title)?.strip_prefix(':').map(|same| (title, same.trim_start()))
        });
        let other = first.strip_suffix(':').filter(|title| !title.starts_with(' ')).map(|title| (title, ""));
        let (title, first) = titled.or(other).unwrap_or((UNTITLED, first));
        let title = title.to_uppercase();
        if title == last {
            roff.control("PP", []);
        } else {
            roff.control("SH", [title.as_str()]);
        }
        last = title;
        roff.control("nf", []);
        for line in [first].into_iter().filter(|line| !line.is_empty()).chain(rest.lines()) {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// A page as a reader sees it, near enough: without fonts and escapes.
    fn page_of(name: &str) -> String {
        let mut command = Cli::command();
        command.build();
        let pages = pages(&command).unwrap();
        let (_, page) =
            pages.into_iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("{name}"));
        let text = String::from_utf8(page).unwrap();
        ["\\fB", "\\fI", "\\fR", "\\&"]
            .iter()
            .fold(text, |text, font| text.replace(font, ""))
            .replace("\\-", "-")
    }

    #[test]
    fn a_page_says_how_its_command_is_called() {
        for (name, line) in [
            ("shoal-blob-ls.1", "[-c|--config FILE] [--socket SOCKET]"),
            ("shoal-completion.1", "shoal completion SHELL\n"),
            ("shoal-explain.1", " DIGEST|IMAGE\n"),
            ("shoal-config.1", "shoal config COMMAND ...\n"),
            ("shoal-evict.1", " IMAGE|DIGEST...\n"),
        ] {
            let page = page_of(name);
            let synopsis =
                page.split(".SH SYNOPSIS\n").nth(1).and_then(|rest| rest.split(".SH").next()).unwrap();
            assert!(synopsis.contains(line), "{name}: {synopsis}");
        }
        let prewarm = page_of("shoal-prewarm.1");
        assert!(prewarm.contains("[-f|--file FILE]... [--from-manifest FILE]..."), "{prewarm}");
        assert!(prewarm.contains("[IMAGE]...\n.br\nshoal prewarm COMMAND ..."), "{prewarm}");
        for title in ["EXAMPLES", "NOTES", "EXIT STATUS"] {
            assert!(
                prewarm.contains(&format!("\n.SH {title}\n"))
                    || prewarm.contains(&format!("\n.SH \"{title}\"\n")),
                "{prewarm}"
            );
        }
        assert!(page_of("shoal-pull.1").contains("0 pulled; 1 not"));
    }
}
