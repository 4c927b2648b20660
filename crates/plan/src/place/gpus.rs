//! Which GPUs of a host a request gets.

use model::placement::{GPU_MILLIS, GpuRequest};

use super::host::{GpuState, HostState};
use super::intern::Interner;

/// A request, compiled.
pub(super) struct GpuAsk<'a> {
    pub(super) request: &'a GpuRequest,
    /// Numbers of the models that will do; `None`: any.
    models: Option<Vec<u32>>,
}

/// Why a host's GPUs do not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GpuRefusal {
    /// It has none at all.
    None,
    /// It has so many of the models or devices asked for, too few even if all were free.
    Kind(u32),
    /// So many devices have enough free.
    Busy(u32),
}

impl GpuRefusal {
    pub(super) fn text(self, ask: &GpuAsk<'_>) -> String {
        let GpuRequest { count, millis, .. } = ask.request;
        match self {
            GpuRefusal::None => "has no GPU".into(),
            GpuRefusal::Kind(_) if !ask.request.devices.is_empty() => {
                "has not the GPUs asked for by name".into()
            }
            GpuRefusal::Kind(0) => {
                let models: Vec<&str> = ask.request.models.iter().map(String::as_str).collect();
                format!("has no GPU of model {}", models.join("|"))
            }
            GpuRefusal::Kind(there) => format!("has {there} GPUs, {count} are requested"),
            GpuRefusal::Busy(free) if *millis >= GPU_MILLIS => {
                format!("has {free} whole GPUs free, {count} are requested")
            }
            GpuRefusal::Busy(free) => {
                format!("has {free} GPUs with {millis} thousandths free, {count} are requested")
            }
        }
    }
}

impl<'a> GpuAsk<'a> {
    pub(super) fn new(request: &'a GpuRequest, texts: &Interner) -> Self {
        let numbers = |model: &String| texts.matching(model);
        let models =
            (!request.models.is_empty()).then(|| request.models.iter().flat_map(numbers).collect());
        Self { request, models }
    }

    /// Whether a device may be used for it, were it free.
    fn allows(&self, device: &GpuState) -> bool {
        let model = self
            .models
            .as_ref()
            .is_none_or(|models| models.contains(&device.model));
        let devices = &self.request.devices;
        model
            && (devices.is_empty()
                || devices.contains(&device.gpu.uuid)
                || devices.contains(device.gpu.index.to_string().as_str()))
    }

    fn fits(&self, device: &GpuState) -> bool {
        device.free >= self.request.millis && self.allows(device)
    }
}

/// Whether a host's free GPUs do.
pub(super) fn check(ask: &GpuAsk<'_>, host: &HostState) -> Result<(), GpuRefusal> {
    let fitting = host.gpus.iter().filter(|device| ask.fits(device)).count();
    if fitting >= ask.request.count as usize {
        return Ok(());
    }
    if host.gpus.is_empty() {
        return Err(GpuRefusal::None);
    }
    let allowed = host.gpus.iter().filter(|device| ask.allows(device)).count();
    if allowed < ask.request.count as usize {
        return Err(GpuRefusal::Kind(u32::try_from(allowed).unwrap_or(u32::MAX)));
    }
    Err(GpuRefusal::Busy(u32::try_from(fitting).unwrap_or(u32::MAX)))
}

/// Every choice of devices worth comparing, as indices: for one device each amount that is free once, for more the
/// ones with the least free that is enough.
pub(super) fn choices(ask: &GpuAsk<'_>, host: &HostState) -> Vec<Vec<usize>> {
    let mut fitting: Vec<usize> = (0..host.gpus.len())
        .filter(|at| ask.fits(&host.gpus[*at]))
        .collect();
    fitting.sort_by_key(|at| (host.gpus[*at].free, *at));
    let count = ask.request.count as usize;
    if count == 1 {
        fitting.dedup_by_key(|at| (host.gpus[*at].free, host.gpus[*at].model));
        return fitting.into_iter().map(|at| vec![at]).collect();
    }
    if fitting.len() < count {
        return Vec::new();
    }
    fitting.truncate(count);
    vec![fitting]
}
