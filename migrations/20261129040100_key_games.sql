-- Which game a title means (domain::title::key). The version before goes by `normalised_title` and writes no key: its
-- rows get one from `salebell migrate` and, every minute, from a worker (store::matching::fill_keys).
alter table games add column match_title text;
create index games_by_match_title on games (match_title);

-- A title that the version before changes has another key.
create function forget_match_title() returns trigger language plpgsql as $$
begin
    new.match_title := null;
    return new;
end $$;
create trigger forget_match_title before update of title on games for each row
    when (new.title is distinct from old.title and new.match_title is not distinct from old.match_title)
    execute function forget_match_title();

-- What a store calls the offer (domain::title::spelling) where that is not how its game is called: two skus of a store
-- whose titles differ in signs are two games.
alter table offers add column spelling text;
