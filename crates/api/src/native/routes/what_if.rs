//! What would become of everything if something changed; nothing changes by asking.

use axum::Json;
use axum::extract::State;
use control::Caller;
use control::whatif::{self, Assumption, LineKind};
use wire::native::Problem;
use wire::native::what_if::{CrossedLine, Fate, Outcome, WhatIf};

use crate::native::extract::{Body, By};
use crate::native::failure::Result;
use crate::native::slices;
use crate::native::table::Native;

#[utoipa::path(post, path = "/api/v1/plan", tag = "system", operation_id = "plan", request_body = WhatIf, responses(
    (status = 200, description = "What would become of everything. Nothing is changed.", body = Outcome),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn plan(
    State(native): State<Native>,
    By(caller): By,
    Body(body): Body<WhatIf>,
) -> Result<Json<Outcome>> {
    let assumption = assumption(&native, &caller, body)?;
    let outcome = native.control.what_if(&caller, &assumption)?;
    Ok(Json(to_wire(outcome)))
}

fn assumption(native: &Native, caller: &Caller, asked: WhatIf) -> Result<Assumption> {
    Ok(match asked {
        WhatIf::WithoutHost { host, drained } => Assumption::WithoutHost { host, drained },
        WhatIf::Pool { pool, slice } => Assumption::Pool {
            pool,
            slice: Box::new(slices::from_wire(&slice)?),
        },
        WhatIf::Add { count, pool, like } => {
            let pool = native.control.pool_find(caller, &pool)?.id.clone();
            let like = native.control.workload_find(caller, &pool, &like)?;
            Assumption::Add {
                count,
                pool,
                like: like.id.clone(),
            }
        }
    })
}

fn to_wire(outcome: whatif::Outcome) -> Outcome {
    let fates = |all: Vec<whatif::Fate>| {
        all.into_iter()
            .map(|it| Fate {
                workload: it.name,
                pool: it.pool,
                from: it.from,
                to: it.to,
                reason: it.reason,
            })
            .collect()
    };
    Outcome {
        fine: outcome.is_fine(),
        lines: outcome.lines.iter().map(line).collect(),
        placed: fates(outcome.placed),
        stay: fates(outcome.stay),
        refused: fates(outcome.refused),
        parked: fates(outcome.parked),
    }
}

fn line(line: &whatif::PoolLine) -> CrossedLine {
    CrossedLine {
        pool: line.pool.clone(),
        key: line.key.as_str().into(),
        what: match line.what {
            LineKind::OverCommitted => "over-committed",
            LineKind::AboveLimit => "above-limit",
        }
        .into(),
        amount: line.key.show(line.amount),
    }
}
