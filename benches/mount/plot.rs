//! Plots: a line for each contestant of each row, a dot at its median and a bar from its least to
//! its most, on one logarithmic axis. Written by hand, as it takes a page and no library.

use std::fmt::Write as _;

use crate::mounts::Role;
use crate::report::{Contestant, Row, least, median, most};

/// Widths in pixels: of the names, of the axis, of the figures beside the dots.
const NAMES: f64 = 210.0;
const AXIS: f64 = 600.0;
const FIGURES: f64 = 110.0;

/// Heights in pixels: of a contestant, of a row's title, of the axis.
const LINE: f64 = 15.0;
const TITLE: f64 = 24.0;
const HEAD: f64 = 64.0;

/// What is drawn of a contestant: one value a run.
pub type Values = fn(&Row, &Contestant) -> Vec<f64>;

/// Returns an SVG of all rows. `ticks` are where the axis has lines, the first and the last its
/// ends; `show` writes a value.
pub fn draw(
    rows: &[Row],
    title: &str,
    values: Values,
    ticks: &[f64],
    show: fn(f64) -> String,
) -> String {
    let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
    let x = |value: f64| {
        let at = (value / low).ln() / (high / low).ln();
        NAMES + AXIS * at.clamp(0.0, 1.0)
    };
    let mut body = String::new();
    let mut y = HEAD;
    for row in rows {
        y += TITLE;
        text(&mut body, 8.0, y - 7.0, "title", &row.title);
        for contestant in &row.contestants {
            let values = values(row, contestant);
            if values.is_empty() {
                continue;
            }
            let colour = colour(contestant.role);
            let middle = y + LINE / 2.0;
            let typical = median(&values);
            text(&mut body, 20.0, middle + 4.0, "name", &contestant.name);
            let _ = writeln!(
                body,
                "<line x1='{:.1}' x2='{:.1}' y1='{middle}' y2='{middle}' stroke='{colour}' \
                 stroke-width='3' stroke-opacity='0.4'/>",
                x(least(&values)),
                x(most(&values)),
            );
            let _ = writeln!(
                body,
                "<circle cx='{:.1}' cy='{middle}' r='4' fill='{colour}'/>",
                x(typical)
            );
            let over = match contestant.runs.iter().any(|run| run.cut) {
                true => "over ",
                false => "",
            };
            let beside = x(most(&values)) + 9.0;
            let figure = format!("{over}{}", show(typical));
            text(&mut body, beside, middle + 4.0, "figure", &figure);
            y += LINE;
        }
    }
    let (width, height) = (NAMES + AXIS + FIGURES, y + 12.0);
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' \
         width='{width}' height='{height}' font-family='sans-serif' font-size='11'>\n\
         <style>.head{{font-size:15px;font-weight:bold}}.title{{font-weight:bold}}\
         .figure,.tick{{fill:#555}}</style>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    );
    text(&mut out, 8.0, 22.0, "head", title);
    for tick in ticks {
        let at = x(*tick);
        let _ = writeln!(
            out,
            "<line x1='{at:.1}' x2='{at:.1}' y1='{HEAD}' y2='{height}' stroke='#ddd'/>"
        );
        text(&mut out, at - 10.0, HEAD - 6.0, "tick", &show(*tick));
    }
    out + &body + "</svg>\n"
}

fn colour(role: Role) -> &'static str {
    match role {
        Role::Ours => "#0b5fa5",
        Role::Other => "#63a4d8",
        Role::Peer => "#c4571b",
        Role::Floor => "#2c8a3d",
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x='{x:.1}' y='{y:.1}' class='{class}'>{text}</text>"
    );
}
