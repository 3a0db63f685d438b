use super::*;
use std::io::{BufReader, Cursor};

fn items(text: &str) -> Items {
    Items::new(Box::new(BufReader::new(Cursor::new(text.to_owned().into_bytes()))))
}

const RSS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE rss [<!ENTITY boom "boom">]>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title><link>https://s/</link>
<item>
  <g:id>1</g:id><title>The Witcher &amp; &#39;Ciri&#39; &boom;</title>
  <link>https://s/1?a=1&amp;b=2</link><g:price>39.99 EUR</g:price><g:sale_price/>
  <g:shipping><g:country>DE</g:country><g:price>4.99 EUR</g:price></g:shipping>
</item>
<item><g:id>2</g:id><description><![CDATA[<b>bold</b>]]></description></item>
</channel></rss>"#;

#[test]
fn items_have_their_own_attributes_and_not_those_of_nested_elements() {
    let mut items = items(RSS);
    let first = items.read_next().unwrap().unwrap();
    let attributes = first.attributes.unwrap();
    let of = |name: &str| {
        let mut found = attributes.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        (found.next(), found.next())
    };
    assert_eq!(first.line, 4);
    assert_eq!(of("id"), (Some("1"), None));
    assert_eq!(of("title").0, Some("The Witcher & 'Ciri' &boom;"));
    assert_eq!(of("link").0, Some("https://s/1?a=1&b=2"));
    assert_eq!(of("price"), (Some("39.99 EUR"), None));
    let second = items.read_next().unwrap().unwrap();
    assert_eq!(second.attributes.unwrap()[1], ("description".to_owned(), "<b>bold</b>".to_owned()));
    assert!(items.read_next().unwrap().is_none());
}

/// Attributes of the only item of a feed, in order.
fn pairs(feed: &str) -> Vec<(String, String)> {
    let mut items = items(feed);
    let item = items.read_next().unwrap().expect("an item");
    assert!(items.read_next().unwrap().is_none());
    item.attributes.unwrap()
}

/// The effective attribute of a name: the first one.
fn of(feed: &str, name: &str) -> Option<String> {
    pairs(feed).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

const GOOGLE: &str = "http://base.google.com/ns/1.0";

#[test]
fn atom_has_its_links_in_attributes() {
    let atom = format!(
        r#"<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="{GOOGLE}"><entry><id>tag:7</id><g:id>7</g:id>
        <link rel="self" href="https://s/self"/><link rel='edit' href="https://s/edit"></link>
        <link rel="enclosure" href="https://s/picture"/><link href="https://s/7?a=1&amp;b=2&#38;c=&quot;"/>
        <link rel="alternate" href="https://s/other"/><title type="text">Seven</title></entry></feed>"#
    );
    let pairs = pairs(&atom);
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        pairs,
        [("id", "7"), ("link", "https://s/7?a=1&b=2&c=\""), ("link", "https://s/other"), ("title", "Seven")]
    );
    // An entry's id is not the product's, and a link that does not refer to a page is ignored.
    let bare = r#"<a:feed xmlns:a="http://www.w3.org/2005/Atom"><a:entry><a:id>tag:7</a:id><a:title>T</a:title>
        <a:link rel="self" href="https://s/self"/></a:entry></a:feed>"#;
    assert_eq!((of(bare, "id"), of(bare, "link"), of(bare, "title")), (None, None, Some("T".to_owned())));
}

#[test]
fn elements_count_by_their_namespace() {
    let foreign = "<c:price>3.00 EUR</c:price><c:sale_price>2.00 EUR</c:sale_price><c:id>c</c:id>\
        <media:title>Picture</media:title><dc:title>Other</dc:title>\
        <atom:link rel=\"self\" href=\"https://s/self\"/><media:link>https://s/media</media:link>";
    let own = "<title>Game</title><link>https://s/1</link><guid>x</guid>";
    let declared = format!(
        "xmlns:c=\"http://base.google.com/cns/1.0\" xmlns:media=\"http://search.yahoo.com/mrss/\" \
         xmlns:dc=\"http://purl.org/dc/elements/1.1/\" xmlns:atom=\"http://www.w3.org/2005/Atom\" \
         xmlns:g=\"{GOOGLE}\""
    );
    for product in [
        "<g:id>1</g:id><g:price>20.00 EUR</g:price>".to_owned(),
        // Any prefix, bound at any element; or none.
        format!("<x:id xmlns:x='{GOOGLE}'>1</x:id><x:price xmlns:x=\"{GOOGLE}\">20.00 EUR</x:price>"),
        format!("<id xmlns='{GOOGLE}'>1</id><price xmlns=\"{GOOGLE}\">20.00 EUR</price>"),
        // A prefix bound to another namespace inside an element has that meaning there only.
        "<w xmlns:g='x'><g:price>1 EUR</g:price></w><g:id>1</g:id><g:price>20.00 EUR</g:price>".to_owned(),
        "<g:price xmlns:g='x'>1 EUR</g:price><g:id>1</g:id><g:price>20.00 EUR</g:price>".to_owned(),
        "<g:price xmlns:g='x'/><g:id>1</g:id><g:price>20.00 EUR</g:price>".to_owned(),
        // Attributes inside another element do not belong to the product.
        "<g:shipping><g:price>4.99 EUR</g:price><g:id>s</g:id></g:shipping><g:id>1</g:id><g:price>20.00 EUR</g:price>"
            .to_owned(),
        "<g:price>20.00 EUR<g:price>1.00 EUR</g:price></g:price><c:more><g:id>9</g:id></c:more><g:id>1</g:id>"
            .to_owned(),
    ] {
        for inside in [format!("{foreign}{own}{product}"), format!("{product}{own}{foreign}")] {
            let feed = format!("<rss {declared}><channel><title>Shop</title><item>{inside}</item></channel></rss>");
            for (name, value) in
                [("id", "1"), ("price", "20.00 EUR"), ("title", "Game"), ("link", "https://s/1")]
            {
                assert_eq!(of(&feed, name).as_deref(), Some(value), "{name}: {inside}");
            }
            assert_eq!(of(&feed, "sale_price"), None, "{inside}");
        }
    }
}

#[test]
fn the_elements_of_google_take_precedence_over_those_of_the_feed() {
    let feed = |inside: &str| format!("<rss><channel><item>{inside}</item></channel></rss>");
    // An undeclared `g:` is Google's. Empty elements are ignored.
    let both = feed(
        "<title>Feed</title><link>https://s/f</link><g:link>https://s/g</g:link><g:title>Google</g:title>",
    );
    assert_eq!(
        (of(&both, "title").unwrap(), of(&both, "link").unwrap()),
        ("Google".into(), "https://s/g".into())
    );
    assert_eq!(of(&feed("<g:title> </g:title><title>Feed</title>"), "title").unwrap(), "Feed");
    // Names without a namespace are the product's; those with other undeclared prefixes are not.
    assert_eq!(of(&feed("<c:price>3</c:price><price>20</price><id>1</id>"), "price").unwrap(), "20");
    assert_eq!(of(&feed("<c:price>3</c:price><id>1</id>"), "price"), None);
    // RSS 1.0, a custom namespace for the whole feed, Google's namespace as the default.
    for (open, close) in [
        (
            "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\" xmlns=\"http://purl.org/rss/1.0/\">",
            "</rdf:RDF>",
        ),
        ("<rss xmlns=\"https://shop.example/feed\" xmlns:x=\"y\">", "</rss>"),
        ("<products xmlns=\"http://base.google.com/ns/1.0\" xmlns:x=\"y\">", "</products>"),
    ] {
        let feed = format!("{open}<item><title>T</title><g:id>1</g:id><x:title>X</x:title></item>{close}");
        assert_eq!(
            (of(&feed, "title").unwrap(), of(&feed, "id").unwrap()),
            ("T".into(), "1".into()),
            "{open}"
        );
    }
    // An item in a foreign namespace is ignored.
    let other = "<rss xmlns:m=\"m\"><channel><m:item><title>x</title></m:item></channel></rss>";
    assert!(items(other).read_next().unwrap().is_none());
    // An Atom link in an RSS item counts if there is no other link.
    let beside =
        "<rss xmlns:a=\"http://www.w3.org/2005/Atom\"><item><a:link href=\"https://s/a\"/></item></rss>";
    assert_eq!(of(beside, "link").unwrap(), "https://s/a");
}

#[test]
fn text_is_read_as_shops_write_it() {
    let feed = "<rss><item><title>Tom & Jerry &#x26; <b>the</b> dog &nbsp;&#0;</title><link>https://s/?a=1&b=2</link>\
        </item></rss>";
    assert_eq!(of(feed, "title").unwrap(), "Tom & Jerry & the dog &nbsp;&#0;");
    assert_eq!(of(feed, "link").unwrap(), "https://s/?a=1&b=2");
    let unreadable = "<rss><item><title>a\u{ffff}</title></item><item><title>b</title></item></rss>";
    let mut items = items(unreadable);
    assert!(items.read_next().unwrap().unwrap().attributes.unwrap_err().contains("encoding"));
    assert_eq!(items.read_next().unwrap().unwrap().attributes.unwrap()[0].1, "b");
}

#[test]
fn elements_inside_an_attribute_are_not_ignored() {
    let feed = |inside: &str| format!("<rss xmlns:g='{GOOGLE}' xmlns:c='c'><item>{inside}</item></rss>");
    let mixed = |inside: &str| items(&feed(inside)).read_next().unwrap().unwrap().mixed;
    for (inside, expected) in [
        ("<g:id>d<b>1</b></g:id>", vec!["id"]),
        ("<g:price>19<sup>99</sup> EUR</g:price>", vec!["price"]),
        ("<g:price>1<br/>9 EUR</g:price>", vec!["price"]),
        ("<g:price><c:b>9 EUR</c:b></g:price><price>19 EUR</price>", vec!["price"]),
        ("<price>1<b>9</b> EUR</price><g:sale_price>1<b/></g:sale_price>", vec!["sale_price", "price"]),
        ("<availability>in_stock<i> no</i></availability>", vec!["availability"]),
        ("<link>https://s/<b>1</b></link>", vec!["link"]),
        // Not mixed: a title may have markup, nested elements of others do not count, a plain attribute of higher rank
        // comes first, and comments are not elements.
        ("<title>a <b>b</b></title><g:shipping><g:price>1 EUR</g:price></g:shipping>", vec![]),
        ("<price>1<b>9</b> EUR</price><g:price>19 EUR</g:price>", vec![]),
        ("<g:price><!-- no element -->1<![CDATA[9]]> EUR<?p i?></g:price>", vec![]),
    ] {
        assert_eq!(mixed(inside), expected, "{inside}");
    }
}

#[test]
fn an_item_without_end_is_refused_and_the_next_is_read() {
    let cdata = format!("<title><![CDATA[{}]]></title>", "x".repeat(2 * LONGEST_RECORD));
    for (unit, times) in [
        ("<x/>", 300_000),
        ("<g:x/>", 300_000),
        ("<g:image>u</g:image>", 5_000),
        ("<g:a><g:b/></g:a>", 20_000),
        ("<!-- -->", 300_000),
        ("<?p i?>", 300_000),
        ("<x a='1' b='2'/>", 300_000),
        ("<link href='u'/>", 300_000),
        ("<title>&amp;&#65;</title>", 300_000),
        (cdata.as_str(), 1),
    ] {
        let feed = format!("<rss><item>{}</item><item><id>2</id></item></rss>", unit.repeat(times));
        let mut items = items(&feed);
        assert!(items.read_next().unwrap().unwrap().attributes.is_err(), "{unit:.40}");
        assert_eq!(items.read_next().unwrap().unwrap().attributes.unwrap()[0].1, "2", "{unit:.40}");
    }
    let name = "x".repeat(LONGEST_NAME + 1);
    let bindings: String = (0..=MAX_BINDINGS).map(|number| format!(" xmlns:p{number}='u'")).collect();
    for endless in [
        format!("<rss><{name}/>"),
        format!("<rss{bindings}><item/></rss>"),
        format!("<rss xmlns:a='{name}'><item/></rss>"),
        format!("<!DOCTYPE rss [{}]><rss/>", "<!ENTITY a 'b'>".repeat(100_000)),
    ] {
        assert!(items(&endless).read_next().is_err(), "{endless:.40}");
    }
}

#[test]
fn endless_input_is_refused() {
    let long_item =
        format!("<rss><item><id>{}</id></item><item><id>2</id></item></rss>", "x".repeat(100_000));
    let mut read = items(&long_item);
    assert!(read.read_next().unwrap().unwrap().attributes.unwrap_err().contains("longer than"));
    assert_eq!(read.read_next().unwrap().unwrap().attributes.unwrap()[0].1, "2");
    let long_tag = format!("<rss><item {}", "x".repeat(3 << 20));
    assert!(items(&long_tag).read_next().is_err());
    let deep = "<a>".repeat(100);
    assert!(items(&deep).read_next().is_err());
    for broken in ["<rss><item><id>1</id>", "<rss><item></rss>", "<rss>"] {
        assert!(items(broken).read_next().is_err(), "{broken}");
    }
}
