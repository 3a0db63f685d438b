//! Self-terminations of instances: at most one of a group requests its own replacement at a time.

use crate::database::pool::PgPool;
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::store::lease::Claim;

/// Claims the self-termination for this instance, unless another one holds a claim that has not expired. Claiming it
/// again does no harm.
pub async fn claim(
    pool: &PgPool,
    group: &str,
    instance: &str,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Claim> {
    let claimed = sqlx::query!(
        "insert into self_terminations (group_name, instance_id, claimed_at, until) values ($1, $2, $3, $4)
         on conflict (group_name) do update set instance_id = $2, claimed_at = $3, until = $4
            where self_terminations.until <= $3 or self_terminations.instance_id = $2",
        group,
        instance,
        now,
        until,
    )
    .execute(pool)
    .await?;
    Ok(Claim::of(&claimed))
}

/// Releases the claim of an instance that was not replaced, so that another one may claim it.
pub async fn release(pool: &PgPool, group: &str, instance: &str) -> Result<()> {
    sqlx::query!(
        "delete from self_terminations where group_name = $1 and instance_id = $2",
        group,
        instance,
    )
    .execute(pool)
    .await?;
    Ok(())
}
