SELECT
    c.region,
    c.name,
    (
        SELECT sum(l.amount * l.price)
        FROM orders AS o JOIN line AS l ON l.order_id = o.id
        WHERE o.customer = c.id AND substr(o.placed, 1, 4) = '2025' AND o.status <> 'cancelled'
    ) AS spent,
    (
        SELECT count(*)
        FROM orders AS o
        WHERE o.customer = c.id AND substr(o.placed, 1, 4) = '2025' AND o.status <> 'cancelled'
    ) AS many
FROM customer AS c
WHERE
    lower(c.region) IN ('north', 'east')
    AND EXISTS (
        SELECT 1
        FROM orders AS o JOIN line AS l ON l.order_id = o.id JOIN product AS p ON p.id = l.product
        WHERE o.customer = c.id AND p.kind = 'lamp' AND substr(o.placed, 1, 4) = '2025'
            AND o.status <> 'cancelled'
    )
ORDER BY spent DESC, c.name
LIMIT 20;
