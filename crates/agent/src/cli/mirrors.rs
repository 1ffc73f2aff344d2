//! `shoal mirrors`: who is asked for an image. Needs no agent: what the configuration says is all there is to it.

mod explanation;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{Align, Output, Table};
use super::{ConfigArgs, Failure};
use crate::image::Image;

use explanation::{Explanation, Walk};

#[derive(Debug, Subcommand)]
pub(super) enum MirrorsCommand {
    /// Show who is asked for an image, in which order and why, and who is not.
    ///
    /// Reads the configuration, and what it says about credentials; asks nobody.
    #[command(
        after_help = "Examples:\n  shoal mirrors explain redis:7\n  shoal mirrors explain quay.io/team/app --json |\n    jq '.digests.asked[].endpoint'"
    )]
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The image as users write it: redis:7 is docker.io/library/redis:7.
    image: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: &MirrorsCommand, out: &mut Output) -> Result<ExitCode, Failure> {
    let MirrorsCommand::Explain(args) = command;
    let image: Image = args.image.parse()?;
    let explanation = Explanation::new(&image, &args.config.load()?.upstream_settings()).await?;
    if args.json {
        out.json(&explanation)?;
    } else {
        out.bytes(text(&explanation).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", explanation.image);
    for (what, walk) in [
        ("Tags, tag lists, referrers", &explanation.tags),
        ("Digests: blobs, and manifests by digest", &explanation.digests),
    ] {
        text.push_str(&format!("\n{what}\n"));
        text.push_str(&format!("{}\n", rule(walk)));
        text.push_str(&asked(walk));
        for left_out in &walk.left_out {
            text.push_str(&format!(
                "   not {}: {}{}\n",
                left_out.who,
                left_out.reason,
                in_brackets(&left_out.sets)
            ));
        }
    }
    text
}

/// Which sets apply, in a sentence.
fn rule(walk: &Walk) -> String {
    let Some(decided_by) = &walk.decided_by else {
        return match &walk.matched {
            Some(matched) => format!("   {matched} has no mirrors"),
            None => "   no mirror set is for this repository".into(),
        };
    };
    let mut rule = match walk.matched.as_ref().filter(|matched| *matched != decided_by) {
        Some(matched) => format!("   {matched} has no mirrors of its own; those of {decided_by} apply"),
        None => format!("   the mirrors of {decided_by} apply"),
    };
    if let Some(order) = &walk.tag_order {
        rule.push_str(&format!(", {order}"));
    }
    rule
}

fn asked(walk: &Walk) -> String {
    if walk.asked.is_empty() {
        return "   nobody can be asked: every request for it fails\n".into();
    }
    let mut table = Table::new(&[
        ("  ", Align::Right),
        ("ASKED FOR", Align::Left),
        ("AT", Align::Left),
        ("CREDENTIALS", Align::Left),
        ("BECAUSE", Align::Left),
    ]);
    for (index, asked) in walk.asked.iter().enumerate() {
        let namespace =
            asked.namespace.as_ref().map_or_else(String::new, |name| format!(", is told ns={name}"));
        table.row([
            (index + 1).to_string(),
            format!("{}/{}", asked.registry, asked.repository),
            asked.endpoint.clone(),
            asked.credentials.clone(),
            format!("{}{}{namespace}", asked.kind, in_brackets(&asked.sets)),
        ]);
    }
    table.to_string()
}

fn in_brackets(sets: &[String]) -> String {
    match sets {
        [] => String::new(),
        [set] => format!(" (set {set})"),
        sets => format!(" (sets {})", sets.join(", ")),
    }
}
