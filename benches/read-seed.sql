-- :games games with titles of a usual length.
insert into games (id, title, normalised_title, match_title, publisher, released_on, url, created_at, updated_at)
select uuid_v7('2026-01-01Z'::timestamptz + n * interval '1 second'), 'The Game of the Lost Kingdom ' || n,
    'the game of the lost kingdom ' || n, 'the game of the lost kingdom ' || n, 'Publisher ' || n % 1000, date '2000-01-01' + n % 9000,
    'https://publisher.example/games/' || n, '2026-01-01Z', '2026-01-01Z'
from generate_series(1, :games) n;
