//! Assembles the change hook: what it is told by, and whom it tells.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderName;
use tokio::runtime::Handle as Runtime;

use super::{Error, View, sources};
use crate::config::{HttpAuth, OnChange};
use crate::entry::Kind;
use crate::fuse::Notifications;
use crate::fuse::mounter::Mounter;
use crate::fuse::runner::Program;
use crate::hook::{About, Auth, Changes, Command, Hooks, Webhook, WebhookSettings};
use crate::namespace::Layer;
use crate::path::Name;
use crate::source;

/// How often a layer is looked at for listings that are due: the part of its refresh interval, and
/// at least this long apart.
const PART: u32 = 4;
const APART: Duration = Duration::from_millis(500);

/// Returns the program that the mounter may run, if the volume names one.
pub(super) fn program(on_change: &OnChange) -> Option<Program> {
    let argv = on_change.command.clone();
    let limit = on_change.timeout();
    (!argv.is_empty()).then_some(Program { argv, limit })
}

/// Starts telling of changes in `view`, if anybody is to be told. Listings are then looked at again
/// as they become due, though nobody reads.
pub(super) fn start(
    on_change: &OnChange,
    about: About,
    view: &View,
    mounter: &Arc<Mounter>,
    notifications: &Notifications,
    runtime: &Runtime,
) -> Result<Option<Arc<Hooks>>, Error> {
    if !on_change.is_set() {
        return Ok(None);
    }
    let command =
        { on_change.command.first() }.map(|program| Command::new(mounter, program.clone()));
    let webhook = webhook(on_change).map_err(|e| Error::System(format!("onChange: {e}")))?;
    let changes = Changes::default();
    for layer in view.vfs.namespace().active() {
        listen(layer, &changes);
        if let Some(every) = layer.catalogue.policy().refresh {
            let catalogue = layer.catalogue.clone();
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep((every / PART).max(APART)).await;
                    catalogue.revalidate_due().await;
                }
            });
        }
    }
    let hooks = Arc::new(Hooks::new(about, changes, command, webhook));
    let (running, notifications) = (hooks.clone(), notifications.clone());
    runtime.spawn(async move {
        // Whoever is told of a change and looks shall find it.
        running.run(|| notifications.told()).await;
    });
    Ok(Some(hooks))
}

/// Has `changes` told of what changes in `layer` and can be seen.
fn listen(layer: &Layer, changes: &Changes) {
    let changes = changes.clone();
    // Not the catalogue itself, which would keep itself.
    let catalogue = Arc::downgrade(&layer.catalogue);
    let (name, graft, filter) = (
        layer.name.clone(),
        layer.graft.clone(),
        layer.filter.clone(),
    );
    layer.catalogue.add_listener(Arc::new(move |dir, names| {
        let Some(catalogue) = catalogue.upgrade() else {
            return;
        };
        let known = catalogue.peek(dir);
        let is_news = |name: &&Name| {
            let path = dir.join(name);
            let entry = { known.as_ref() }.and_then(|known| known.get(name.as_str()).ok()?);
            match entry {
                // Only its time is another.
                Some(entry) if entry.kind == Kind::Dir && catalogue.remembers(&path) => false,
                Some(entry) => filter.shows(path.as_str(), entry.kind),
                // It is gone, and may have been either.
                None => [Kind::File, Kind::Dir]
                    .into_iter()
                    .any(|kind| filter.shows(path.as_str(), kind)),
            }
        };
        changes.changed(&name, &graft.concat(dir), names.iter().filter(is_news));
    }));
}

fn webhook(on_change: &OnChange) -> source::Result<Option<Webhook>> {
    let Some(section) = &on_change.webhook else {
        return Ok(None);
    };
    let headers = section.headers.iter().filter_map(|(name, value)| {
        // Their names were checked with the volume file.
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, sources::secret(value)))
    });
    let settings = WebhookSettings {
        url: section.url.as_url().clone(),
        shown: section.shown(),
        auth: section.auth.as_ref().map(|auth| match auth {
            HttpAuth::Bearer(bearer) => Auth::Bearer(sources::secret(&bearer.token)),
            HttpAuth::Basic(basic) => {
                Auth::Basic(basic.username.clone(), sources::secret(&basic.password))
            }
        }),
        headers: headers.collect(),
        tls: sources::tls(&section.tls),
        proxy: sources::proxy(&section.proxy),
        limit: on_change.timeout(),
    };
    Webhook::new(settings).map(Some)
}
