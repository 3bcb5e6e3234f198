<?php
// What PHP takes of headers, as frameworks do: `php -S 127.0.0.1:PORT headers.php`.
$method = $_SERVER['REQUEST_METHOD'];
$read = json_encode([
    'method' => $method === 'POST' ? ($_SERVER['HTTP_X_HTTP_METHOD_OVERRIDE'] ?? $method) : $method,
    'role' => $_SERVER['HTTP_X_ROLE'] ?? null,
    'subject' => $_SERVER['HTTP_X_AUTH_SUBJECT'] ?? null,
]);
header('Content-Length: ' . strlen($read));
echo $read;
