<?php
// What PHP reads: `php -S 127.0.0.1:PORT index.php`.
ini_set('display_errors', '0');

function written($value)
{
    if (is_null($value) || is_bool($value)) {
        return $value;
    }
    if (is_int($value) || is_float($value)) {
        return ['n' => is_float($value) ? json_encode($value, JSON_PARTIAL_OUTPUT_ON_ERROR) : (string) $value];
    }
    if (is_string($value)) {
        return ['s' => bin2hex($value)];
    }
    if (is_object($value)) {
        return members(get_object_vars($value));
    }
    return array_is_list($value) && $value !== [] ? array_map('written', $value) : members($value);
}

function members($given)
{
    $found = [];
    foreach ($given as $name => $value) {
        $found[] = [bin2hex((string) $name), written($value)];
    }
    return ['o' => $found];
}

function decoded($assoc)
{
    $found = json_decode(file_get_contents('php://input'), $assoc, 512, JSON_THROW_ON_ERROR);
    return written($found);
}

function parsed()
{
    parse_str(file_get_contents('php://input'), $found);
    return members($found);
}

header('Content-Type: application/json');
try {
    $read = match (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: strtok($_SERVER['REQUEST_URI'], '?')) {
        '/form' => members($_POST),
        '/any-form' => parsed(),
        '/any-json' => decoded(true),
        '/any-json-object' => decoded(false),
        '/query' => members($_GET),
    };
    echo json_encode(['read' => $read]);
} catch (Throwable $error) {
    http_response_code(400);
    echo json_encode(['refused' => get_class($error)]);
}
