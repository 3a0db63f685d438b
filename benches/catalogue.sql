-- A catalogue of :games games with ten offers each, a third of them on sale, and five prices of each offer.
-- Titles are two to five words, few of them common and many rare, as in a real catalogue.
--
-- For `psql -v games=…`, and for tests/it/database/plans.rs. Analyse the tables afterwards.

select setseed(0.42);

create function pg_temp.word() returns text language sql volatile as $$
    select case when random() < 0.6
        then words[1 + floor(array_length(words, 1) * random() ^ 2)::int]
        else initcap(parts[1 + floor(30 * random())::int] || parts[1 + floor(30 * random())::int]
            || parts[1 + floor(30 * random())::int])
        end
    from (select
        '{The,of,Game,World,War,Edition,Simulator,Dark,Tales,Legends,Quest,Heroes,Night,Lost,Last,Star,Shadow,Dragon,
          City,Story,Knights,Space,Super,Adventure,Battle,Empire,Dungeon,Racing,Tactics,Soul,Rise,Fall,Island,Kingdom,
          Chronicles,Hunter,Witch,Wild,Deep,Iron,Blood,Moon,Sun,Fire,Ice,Storm,Steel,Ghost,Zombie,Robot,Farm,Train,
          Truck,Puzzle,Escape,Survival,Forest,Ocean,Desert,Castle,Tower,Magic,Sword,Gun,Pixel,Neon,Cyber,Mystery,
          Secret,Broken,Silent,Hidden,Ancient,Eternal,Infinite,Golden,Crimson,Azure,Savage,Brave}'::text[] as words,
        '{ka,ro,ve,mi,ta,lu,ne,so,ri,da,po,ze,xi,va,go,hel,mar,tor,win,bel,cra,dru,fen,gal,jor,lin,nor,pra,qui,sha}'::text[]
            as parts) w
$$;

insert into stores (id, slug, name, created_at, updated_at)
select gen_random_uuid(), 'store-' || n, 'Store ' || n, '2026-01-01Z', '2026-01-01Z' from generate_series(1, 20) n;

insert into games (id, title, normalised_title, match_title, publisher, released_on, created_at, updated_at)
select uuid_v7('2026-01-01Z'::timestamptz + n * interval '1 second'), title, lower(title), lower(title), 'Publisher ' || n % 1000,
    date '2000-01-01' + n % 9000, '2026-01-01Z', '2026-01-01Z'
from (
    select n, (select string_agg(pg_temp.word(), ' ') from generate_series(1, 2 + n % 4))
        || case when n % 5 = 0 then ' ' || 1 + n % 9 else '' end as title
    from generate_series(1, :games) n
) t;

-- Each game in ten of the twenty stores; every second offer is for everywhere, the others for one of ten regions.
insert into offers (id, game_id, store_id, sku, region, platform, url, currency, amount, regular, observed_at, low, low_at,
    sale_id, created_at, updated_at)
select uuid_v7('2026-02-01Z'), game_id, store_id, sku, region, platform, 'https://store.example/' || sku, currency,
    case when on_sale then greatest(regular * (5 + floor(90 * random())::int) / 100, 1) else regular end, regular,
    '2026-03-01Z'::timestamptz + random() * interval '200 days', 1 + regular / 4, '2026-03-01Z',
    case when on_sale then uuid_v7('2026-03-01Z') end, '2026-02-01Z', '2026-02-01Z'
from (
    select g.id as game_id, s.id as store_id, 'sku-' || g.number || '-' || s.number as sku, random() < 0.33 as on_sale,
        (199 + 100 * floor(60 * random() ^ 2))::bigint as regular,
        case when (g.number + s.number / 2) % 2 = 0 then 'ZZ'
            else ('{DE,US,GB,FR,PL,BR,JP,AU,CA,ES}'::text[])[1 + floor(10 * random())::int] end as region,
        ('{EUR,USD,GBP,PLN,BRL}'::text[])[1 + floor(5 * random() ^ 2)::int] as currency,
        ('{windows,windows,windows,switch,ps5,xbox,linux}'::text[])[1 + floor(7 * random())::int] as platform
    from (select id, row_number() over (order by id) as number from games) g
    join (select id, row_number() over (order by slug) as number from stores) s on (g.number + s.number) % 2 = 0
) o;

insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular, cut, new_low, started_at,
    changed_at, ended_at)
select sale_id, id, game_id, store_id, region, platform, currency, amount, regular, (100 - 100 * amount / regular)::smallint,
    random() < 0.1, observed_at, observed_at, null
from offers where sale_id is not null
union all
select uuid_v7('2026-02-01Z'), id, game_id, store_id, region, platform, currency, regular / 2, regular, 50, false,
    observed_at - interval '60 days', observed_at - interval '60 days', observed_at - interval '40 days'
from offers;

insert into price_history (offer_id, observed_at, currency, amount, regular)
select id, observed_at - step * interval '23 days', currency, case step when 0 then amount else 1 + regular / (1 + step % 3) end,
    regular
from offers, generate_series(0, 4) step;

-- Every hundredth offer has a glitch in quarantine.
insert into quarantined_prices (id, offer_id, currency, amount, regular, observed_at, backfill, reason, state, created_at)
select uuid_v7('2026-03-01Z'), id, currency, 1, regular, observed_at, false, 'price_far_below_regular',
    case when number % 2 = 0 then 'held' else 'discarded' end, observed_at
from (select *, row_number() over () / 100 as number, row_number() over () % 100 as place from offers) o where place = 0;
