-- The instance of each Auto Scaling group that has itself replaced because its load balancer has fallen silent. One at a
-- time: until then no other of the group may, so that a broken health checker cannot empty it.
create table self_terminations (
    group_name   text primary key,
    instance_id  text not null,
    claimed_at   timestamptz not null,
    until        timestamptz not null
);
