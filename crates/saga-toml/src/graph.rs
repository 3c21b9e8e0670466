//! A saga's graph, drawn.

use crate::file::{FilePerformer, FileStep, SagaFile};
use saga::StepKind;
use std::fmt::Write;

/// A box's width and height, and the room between two, in the picture's units.
const BOX: (usize, usize) = (190, 46);
const ROOM: (usize, usize) = (70, 26);
const MARGIN: usize = 20;
const TITLE: usize = 44;
/// How far above the boxes an arc is drawn towards: it comes three quarters as far.
const ARC: usize = 28;

impl SagaFile {
    /// The graph in the language of Graphviz: solid arrows for what a step waits for, dashed ones for
    /// what flows.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut dot = format!("digraph {} {{\n", quoted(self.name.as_str()));
        let title = quoted(&format!("{} {}", self.name, self.version));
        let _ = writeln!(dot, "  rankdir=LR; label={title}; labelloc=t;");
        dot.push_str("  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n");
        for step in &self.steps {
            let name = quoted(step.name.as_str());
            let label = quoted(&format!("{}\n{}", step.name, below(step)));
            let (fill, edge) = colours(step.kind);
            let _ =
                writeln!(dot, "  {name} [label={label}, fillcolor=\"{fill}\", color=\"{edge}\"];");
        }
        for step in &self.steps {
            for on in &step.after {
                let before = quoted(self.steps[*on as usize].name.as_str());
                let _ = writeln!(dot, "  {before} -> {};", quoted(step.name.as_str()));
            }
            for (from, value) in &step.takes {
                let (from, to) = (&self.steps[*from as usize].name, &step.name);
                let (from, to) = (quoted(from.as_str()), quoted(to.as_str()));
                let value = value.name();
                let _ = writeln!(dot, "  {from} -> {to} [style=dashed, label=\"{value}\"];");
            }
        }
        dot.push_str("}\n");
        dot
    }

    /// The graph as a picture, SVG: a column for each length of the longest way to a step.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut columns: Vec<usize> = Vec::new();
        let mut rows: Vec<usize> = Vec::new();
        let mut height = Vec::new();
        for step in &self.steps {
            // What it depends on stands before it.
            let after = step.after.iter().map(|on| columns[*on as usize] + 1);
            let column = after.max().unwrap_or(0);
            if height.len() <= column {
                height.resize(column + 1, 0);
            }
            columns.push(column);
            rows.push(height[column]);
            height[column] += 1;
        }
        let place = |at: usize| {
            let x = MARGIN + columns[at] * (BOX.0 + ROOM.0);
            (x, MARGIN + TITLE + rows[at] * (BOX.1 + ROOM.1))
        };
        let tallest = height.iter().copied().max().unwrap_or(0);
        let (wide, high) = (height.len(), tallest);
        let width = 2 * MARGIN + wide * (BOX.0 + ROOM.0) - ROOM.0.min(wide * ROOM.0);
        let height = 2 * MARGIN + TITLE + high * (BOX.1 + ROOM.1) - ROOM.1.min(high * ROOM.1);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\">\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" \
             markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{MARGIN}\" y=\"{}\" font-size=\"17\" font-weight=\"bold\">{} {}</text>\n",
            MARGIN + 14,
            escaped(self.name.as_str()),
            self.version
        );
        for (to, step) in self.steps.iter().enumerate() {
            for on in &step.after {
                let flows = step.takes.iter().any(|(from, _)| from == on);
                arrow(&mut svg, place(*on as usize), place(to), flows);
            }
            for (from, _) in step.takes.iter().filter(|(from, _)| !step.after.contains(from)) {
                arc(&mut svg, place(*from as usize), place(to));
            }
        }
        for (at, step) in self.steps.iter().enumerate() {
            let (x, y) = place(at);
            let (fill, edge) = colours(step.kind);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"7\" fill=\"{fill}\" \
                 stroke=\"{edge}\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{}\" y=\"{}\" font-size=\"14\">{}</text>\n\
                 <text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#444\">{}</text>",
                BOX.0,
                BOX.1,
                x + 10,
                y + 19,
                escaped(&cut(step.name.as_str(), 22)),
                x + 10,
                y + 36,
                escaped(&cut(&below(step), 30)),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// From the right side of one box to the left side of another; blue if something flows there too.
fn arrow(svg: &mut String, from: (usize, usize), to: (usize, usize), flows: bool) {
    let (x, y) = (from.0 + BOX.0, from.1 + BOX.1 / 2);
    let (to_x, to_y) = (to.0, to.1 + BOX.1 / 2);
    let bend = (to_x - x) / 2;
    let colour = if flows { "#1769aa" } else { "#555" };
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {y}C{} {y} {} {to_y} {to_x} {to_y}\" fill=\"none\" stroke=\"{colour}\" \
         stroke-width=\"1.4\" marker-end=\"url(#tip)\"/>",
        x + bend,
        to_x - bend,
    );
}

/// From the top of one box over those between to the top of another: something flows there, and the one
/// waits for the other through others.
fn arc(svg: &mut String, from: (usize, usize), to: (usize, usize)) {
    let (x, y, to_x, to_y) = (from.0 + BOX.0 * 2 / 3, from.1, to.0 + BOX.0 / 3, to.1);
    // Both are at least as far down as the title is high.
    let (over, to_over) = (y - ARC, to_y - ARC);
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {y}C{x} {over} {to_x} {to_over} {to_x} {to_y}\" fill=\"none\" \
         stroke=\"#1769aa\" stroke-width=\"1.4\" stroke-dasharray=\"5 4\" marker-end=\"url(#tip)\"/>",
    );
}

/// What stands below a step's name.
fn below(step: &FileStep) -> String {
    let mut text = match &step.performer {
        FilePerformer::Node => String::new(),
        FilePerformer::Transaction(who) => {
            let who: Vec<&str> = who.iter().map(saga::Label::as_str).collect();
            format!("transaction of {}, ", who.join(" and "))
        }
        FilePerformer::Saga(inner) => format!("saga {} {}, ", inner.name, inner.version),
    };
    match &step.undo {
        Some(undo) => _ = write!(text, "undo {undo}"),
        None if !step.undo_transaction.is_empty() => text.push_str("undo by transaction"),
        None => text.push_str(step.kind.name()),
    }
    if let Some(gives) = step.gives {
        let _ = write!(text, ", gives {}", gives.name());
    }
    text
}

fn colours(kind: StepKind) -> (&'static str, &'static str) {
    match kind {
        StepKind::Compensatable => ("#eef4fb", "#4a7fb5"),
        StepKind::Pivot => ("#fdebd8", "#c7731c"),
        StepKind::Retriable => ("#e9f6ea", "#4b9a54"),
        _ => ("#f4f4f4", "#888888"),
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // What XML does not allow even escaped.
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
