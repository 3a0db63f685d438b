-- What a share link has given out. `downloads` counts whole copies, as before; the version before goes on counting there.
alter table file_links
    -- Bytes of all answers; those that are under way are in it as if they were sent.
    add column bytes_served bigint not null default 0,
    -- Bytes that were given out of each part of the file beyond the copies in `downloads`; empty: none.
    add column given        bigint[] not null default '{}';
