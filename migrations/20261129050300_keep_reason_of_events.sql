-- Why a sale ended; and whether those are to be rung too whom the sale has rung already.
alter table events
    add column reason text,
    add column rings_again boolean not null default false;
