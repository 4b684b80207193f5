<?php
// The shop with PDO alone and in Eloquent.
//
//     php shop.php ORM DRIVER SCENARIO TWIN
//
// Enters and leaves: what tests/orm/matrix.py says of every shop's program. As under PHP-FPM each process answers one
// request at a time, over a connection made for it.
declare(strict_types=1);
error_reporting(E_ALL & ~E_DEPRECATED);
set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
    return true;
});

const BOOKS = 20;
const AUTHORS = 10;

$tags = '';

/** A statement with the comment of the request that it belongs to. */
function tagged(string $sql): string
{
    global $tags;
    return $tags === '' ? $sql : "$sql /*$tags*/";
}

function pooled(): bool
{
    return getenv('SHOP_POOLED') !== '';
}

[, $orm, , $scenario, $twin] = $argv;
require __DIR__ . ['pdo' => '/pdo.php', 'eloquent' => '/eloquent.php'][$orm];
$requests = (int) getenv('SHOP_REQUESTS');
$workers = (int) getenv('SHOP_AT_ONCE');

function work(callable $page, int $first, int $step, int $requests, string $scenario): void
{
    global $tags;
    for ($request = $first; $request < $requests; $request += $step) {
        if (getenv('SHOP_TAGGED') !== '') {
            $tags = sprintf("request_id='r%d-%d',route='/%s'", getmypid(), $request, $scenario);
        }
        $line = json_encode($page(), JSON_THROW_ON_ERROR) . "\n";
        // Several processes write to one pipe.
        $lock = fopen(__FILE__, 'r');
        flock($lock, LOCK_EX);
        fwrite(STDOUT, $line);
        flock($lock, LOCK_UN);
    }
}

$children = [];
for ($worker = 0; $worker < $workers; $worker++) {
    $child = pcntl_fork();
    if ($child === 0) {
        work(page($scenario, $twin), $worker, $workers, $requests, $scenario);
        exit(0);
    }
    $children[] = $child;
}
$failed = false;
foreach ($children as $child) {
    pcntl_waitpid($child, $status);
    $failed = $failed || $status !== 0;
}
exit((int) $failed);
